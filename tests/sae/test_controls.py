"""The commands of docs/sae-formats.md for neurons and random directions, as they stand there but on fewer tokens."""

import re
import shlex
from pathlib import Path

import pytest

from autointerp.catalog.store import Catalog
from tests.cli.test_bad_input import run

DOCS = Path(__file__).resolve().parents[2] / "docs" / "sae-formats.md"


@pytest.mark.parametrize(("kind", "l0"), [("neurons", r"L0 \d+\.\d, "), ("random", r"L0 16\.0 \(expected 16\.0\), ")])
def test_the_documented_command(kind: str, l0: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = re.search(rf"^autointerp (sample --sae {kind}:.*)$", DOCS.read_text(), re.MULTILINE)
    assert found is not None
    command = shlex.split(found.group(1))
    command[command.index("--max-tokens") + 1] = "3000"
    command[command.index("--out") + 1] = str(tmp_path)
    code, err = run(capsys, *command)
    assert code == 0, err
    assert re.search("conformance: " + l0, err)
    with Catalog.open(tmp_path / "catalog.duckdb") as catalog:
        assert catalog.rows("SELECT count(*), min(feature_id), max(feature_id) FROM features") == [(64, 0, 63)]
        [(contexts, least)] = catalog.rows("SELECT count(*), min(peak) FROM contexts")
        assert contexts > 100 and least >= 0  # something fires, and only the positive side is kept
