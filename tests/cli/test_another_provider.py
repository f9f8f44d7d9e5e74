"""Another provider is not reached at the address of the one before, and shown no key meant for another."""

from pathlib import Path

import pytest

from autointerp.config_reading import load_config

OWN = {"provider": "http", "base_url": ["http://gpu1:8000/v1"], "api_key_env": "GPU_KEY", "model": "m"}


@pytest.mark.parametrize(
    ("before", "now", "is_kept"),
    [
        ("http", "openai", False), ("http", "anthropic", False), ("openai", "anthropic-batch", False),
        ("http", "http", True), ("openai", "openai-batch", True), ("anthropic-batch", "anthropic", True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("section", ["explain", "score"])
def test_the_address_goes_with_the_provider(section: str, before: str, now: str, is_kept: bool) -> None:
    base = {section: OWN | {"provider": before}}
    found = getattr(load_config(None, {f"{section}.provider": now}, base=base), section)
    wanted = (("http://gpu1:8000/v1",), "GPU_KEY") if is_kept else ((), None)
    assert (found.base_url, found.api_key_env) == wanted
    assert (found.provider, found.model) == (now, "m")


def test_a_new_address_and_what_names_no_provider() -> None:
    given = {"explain.base_url": ("https://api.example.com/v1",), "explain.provider": "openai"}
    found = load_config(None, given, base={"explain": OWN}).explain
    assert (found.base_url, found.api_key_env) == (("https://api.example.com/v1",), None)
    assert load_config(None, {"explain.model": "n"}, base={"explain": OWN}).explain.base_url == ("http://gpu1:8000/v1",)


def test_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[explain]\nprovider = "openai"\n')
    assert load_config(path, {}, base={"explain": OWN}).explain.base_url == ()
    path.write_text('[explain]\nprovider = "http"\nbase_url = "http://gpu2:8000/v1"\n')
    assert load_config(path, {}, base={"explain": OWN}).explain.base_url == ("http://gpu2:8000/v1",)
    assert load_config(path, {"explain.provider": "openai"}).explain.base_url == ()
    path.write_text('[explain]\nbase_url = "http://gpu2:8000/v1"\n')
    assert load_config(path, {"explain.provider": "http"}).explain.base_url == ("http://gpu2:8000/v1",)
