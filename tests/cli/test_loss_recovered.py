"""`--loss-recovered`: with the sampling, after it, and where it cannot be measured any more."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from autointerp.catalog.store import Catalog
from tests.cli.test_bad_input import options, run


def facts(out: Path) -> dict[str, Any]:
    with Catalog.open(out / "catalog.duckdb") as catalog:
        return catalog.stage_facts("sample")


def test_with_the_sampling_and_after_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    settings = options(tiny_settings, sample__features="0-5")
    code, err = run(capsys, "sample", *settings, "--loss-recovered", "--out", tmp_path / "at-once")
    assert code == 0 and "loss recovered" in err
    at_once = facts(tmp_path / "at-once")
    loss = at_once["conformance"]["loss"]
    assert loss["tokens"] > 1000 and min(loss["plain"], loss["sae"], loss["zero"], loss["mean"]) > 0
    assert (loss["recovered"] is None) == (loss["zero"] <= loss["plain"])

    code, err = run(capsys, "sample", *settings, "--out", tmp_path / "later")
    assert code == 0 and "loss recovered" not in err
    before = facts(tmp_path / "later")
    assert before["conformance"]["loss"] is None
    # Asked for on the finished folder: measured then, and nothing else is done or changed.
    code, err = run(capsys, "run", "--loss-recovered", "--out", tmp_path / "later")
    assert code in (0, 2) and "loss recovered" in err and "harvest" not in err
    assert facts(tmp_path / "later") == at_once
    # Once is enough; and the folder does not refuse the command without the flag.
    for flags in (["--loss-recovered"], [], ["--set", "sample.loss_recovered=false"]):
        code, err = run(capsys, "sample", *flags, "--out", tmp_path / "later")
        assert code == 0 and "loss recovered" not in err
    assert run(capsys, "explain", "--out", tmp_path / "later")[0] == 0
    assert run(capsys, "report", "--out", tmp_path / "later")[0] == 0
    assert "Loss recovered" in (tmp_path / "later" / "report.html").read_text(encoding="utf-8")


def test_a_folder_whose_windows_are_gone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    settings = options(tiny_settings, sample__features="0-5")
    assert run(capsys, "sample", *settings, "--out", tmp_path / "run")[0] == 0
    shutil.rmtree(tmp_path / "run" / "plan")
    code, err = run(capsys, "sample", "--loss-recovered", "--out", tmp_path / "run")
    assert code == 2 and "complete without the loss recovered" in err
    assert run(capsys, "sample", "--out", tmp_path / "run")[0] == 0
