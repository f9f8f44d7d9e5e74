"""A stage's access to a model: what it says to the user."""

from pathlib import Path

import pytest

from autointerp.config import ModelAccess
from autointerp.llm.session import open_session


async def test_a_price_that_is_not_known_is_said_once_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    access = ModelAccess(
        provider="http",
        model="ours",
        base_url=("http://127.0.0.1:9/v1",),
        api_key_env=None,
        concurrency=4,
        timeout_s=1.0,
        budget=None,
        prices=None,
    )
    for run, stage in (("a", "explainer"), ("a", "simulator"), ("a", "judge"), ("b", "explainer")):
        async with open_session(access, tmp_path / run, stage):
            pass
        said = capsys.readouterr().err
        assert ('the price of "ours" is not known' in said) == (stage == "explainer")
