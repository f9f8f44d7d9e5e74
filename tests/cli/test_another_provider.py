"""What a configuration means that names another provider than before, whom no other's key is shown; or no explainer."""

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


class TestWhoWritesTheLabels:
    """Where a model is named and no explainer, one that asks it writes the labels."""

    @staticmethod
    def chosen(
        tmp_path: Path, text: str, given: dict[str, object], base: dict[str, dict[str, object]] | None = None
    ) -> str:
        file = tmp_path / "c.toml"
        file.write_text(text, encoding="utf-8")
        return load_config(file, given, base).explain.explainer

    def test_a_model_named_by_option_or_file(self, tmp_path: Path) -> None:
        assert self.chosen(tmp_path, "", {}) == "lexicon"
        assert self.chosen(tmp_path, "", {"explain.model": "m"}) == "highlighted"
        assert self.chosen(tmp_path, '[explain]\nmodel = "m"', {}) == "highlighted"
        assert self.chosen(tmp_path, '[explain]\nprovider = "mock"', {}) == "lexicon"

    def test_an_explainer_that_is_named_stays(self, tmp_path: Path) -> None:
        assert self.chosen(tmp_path, "", {"explain.model": "m", "explain.explainer": "lexicon"}) == "lexicon"
        assert self.chosen(tmp_path, '[explain]\nexplainer = "lexicon"', {"explain.model": "m"}) == "lexicon"
        assert self.chosen(tmp_path, "", {"explain.model": "m"}, {"explain": {"explainer": "dual"}}) == "dual"

    def test_a_folder_that_was_labelled_without_a_model(self, tmp_path: Path) -> None:
        saved: dict[str, dict[str, object]] = {"explain": {"explainer": "lexicon", "model": None}}
        assert self.chosen(tmp_path, "", {"explain.model": "m"}, saved) == "highlighted"
        assert self.chosen(tmp_path, "", {"explain.concurrency": 4}, saved) == "lexicon"
        kept: dict[str, dict[str, object]] = {"explain": {"explainer": "lexicon", "model": "m"}}
        assert self.chosen(tmp_path, "", {}, kept) == "lexicon"  # whoever chose that meant it
