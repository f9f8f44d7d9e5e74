"""Fixtures that tests of other rooms may use; `tests/llm/conftest.py` and the root conftest import them."""

from collections.abc import Iterator

import pytest

from tests.llm.server import LlmServer


@pytest.fixture
def llm_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LlmServer]:
    """A running model server, and keys for it in the environment (without any that the developer has there)."""
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "test-key-openai")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key-anthropic")
    with LlmServer() as server:
        yield server
