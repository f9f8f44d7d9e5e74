from tests.llm.fixtures import llm_server

__all__ = ["llm_server"]
