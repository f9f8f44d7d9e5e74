"""The documentation says what is there: every command, every configuration field, every file that a page links to."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from autointerp.cli import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "data" / "demo" / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_command_has_help_and_a_line_in_the_docs() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name, command in cli.commands.items():
        assert command.help and re.search(rf"autointerp {name}\b|`{name}`", text), name
        for option in command.params:
            if option.param_type_name == "option" and option.name not in ("style",):
                assert option.help, f"{name} --{option.name}"


def test_the_configuration_page_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from write_configuration_docs import tables

    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == tables()


def test_the_catalog_page_names_every_table_view_and_column(tmp_path: Path) -> None:
    from autointerp.catalog.store import Catalog

    text = (ROOT / "docs" / "catalog.md").read_text(encoding="utf-8")
    with Catalog.open(tmp_path / "c.duckdb", write=True) as catalog:
        tables = [name for (name,) in catalog.rows("SELECT table_name FROM duckdb_tables()")]
        views = [name for (name,) in catalog.rows("SELECT view_name FROM duckdb_views() WHERE NOT internal")]
        columns = [
            name for (name,) in catalog.rows("SELECT DISTINCT column_name FROM duckdb_columns() WHERE NOT internal")
        ]
    assert {"catalog", "examples", "neighbourhood"} <= set(views)
    assert len(columns) > 80
    for name in [*tables, *views, *columns]:
        assert re.search(rf"\b{name}\b", text), name


def test_help_teaches() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "autointerp", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "autointerp run" in shown and "report.html" in shown


def test_the_prompts_page_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from write_prompt_docs import page

    assert (ROOT / "docs" / "prompts.md").read_text(encoding="utf-8") == page()
    assert page().count("[OUTPUT, as above]") == 8


def test_every_explainer_has_a_section() -> None:
    from autointerp.explain import explainers

    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in explainers.names():
        assert re.search(rf"^## `{name}`$", text, re.MULTILINE), name


def test_every_safety_tag_is_explained() -> None:
    from typing import get_args

    from autointerp.explain.answers import Safety

    text = (ROOT / "docs" / "explainers.md").read_text(encoding="utf-8")
    assert all(re.search(rf"^\| {tag} \|", text, re.MULTILINE) for tag in get_args(Safety))
