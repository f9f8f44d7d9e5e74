"""Every scorer has a section in docs/scoring.md, and every metric that it gives is in it."""

import re
from pathlib import Path

import pytest

from autointerp.score import Judged, ScoreRow, scorers
from autointerp.score.delphi24 import score_delphi
from autointerp.score.fuzzing import score_fuzzing
from autointerp.score.intruder import score_intruder
from autointerp.score.saebench25 import score_saebench
from autointerp.score.simulation import METRICS
from tests.score.builders import context, evidence

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "scoring.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)


def section_of(scorer: str) -> str:
    [found] = [section for section in SECTIONS if f"`{scorer}`" in section.partition("\n")[0]]
    return found


@pytest.mark.parametrize("scorer", scorers.names())
def test_every_scorer_has_a_section_and_no_list_calls_it_missing(scorer: str) -> None:
    assert len(section_of(scorer)) > 500
    [missing] = [section for section in SECTIONS if section.startswith("What is not implemented")]
    assert scorer not in missing


def test_every_metric_is_in_its_section() -> None:
    found = evidence([context(1, 1, [1.0, 0.0]), context(2, 0, [0.0, 0.0])], {0: 5, 1: 5})
    judged = [Judged(1, "band", True, True, "ok", item=0), Judged(2, "silent", False, False, "ok", item=0)]
    odd = [Judged(1, "band", False, False, "ok", item=0), Judged(2, "silent", True, True, "ok", item=0)]
    fourteen = [Judged(n, "top" if n < 4 else "random", n < 4, True, "ok") for n in range(14)]
    rows: dict[str, list[ScoreRow]] = {
        "fuzzing": score_fuzzing(found, judged),
        "delphi24_fuzz": score_delphi(found, judged, "delphi24_fuzz"),
        "intruder": score_intruder(found, odd),
        "saebench25": score_saebench(found, fourteen),
    }
    for scorer, some in rows.items():
        for row in some:
            base = re.sub(r"_(near|token|silent)$|_band_\d+$", "", row.metric)
            # Fuzzing has the metrics of detection.
            assert f"`{base}" in section_of(scorer) or (scorer == "fuzzing" and f"`{base}" in section_of("detection"))
    assert all(f"`{metric}`" in section_of("simulation") for metric in METRICS)
