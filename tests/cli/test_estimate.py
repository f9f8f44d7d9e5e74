"""`autointerp estimate`: what it says is what a run then asks, and nothing is sent or written by it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from autointerp.catalog.draws import draw_again, failed_items
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.config_reading import load_config
from autointerp.errors import UserError
from autointerp.estimate import Estimate, estimate
from autointerp.explain.stage import explainer_key
from autointerp.llm.journal import Journal
from autointerp.llm.provider import Reply
from autointerp.llm.providers.mock import MockProvider
from autointerp.llm.session import journal_folder
from autointerp.llm.types import Request, Usage
from autointerp.pipeline import explain_stage, ids_of, sample_stage, score_stage
from tests.cli.test_bad_input import options, run

ALL = 10**6


def configured(settings: dict[str, object], **changed: object) -> Config:
    named = {name.replace("__", "."): value for name, value in changed.items()}
    model = {"explain.explainer": "token_activation", "explain.provider": "mock", "explain.model": "mock"}
    return load_config(None, settings | {"sample.features": "0-15", "score.control_features": 6} | model | named)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, object]) -> Path:
    out = tmp_path_factory.mktemp("estimate") / "run"
    sample_stage(configured(tiny_settings), out)
    return out


@pytest.fixture
def out(sampled: Path, tmp_path: Path) -> Path:
    shutil.copytree(sampled, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Request]]:
    """Every request that reaches the mock."""
    requests: list[Request] = []
    send = MockProvider.send

    async def record(self: MockProvider, request: Request, payload: dict) -> Reply:
        requests.append(request)
        return await send(self, request, payload)

    monkeypatch.setattr(MockProvider, "send", record)
    yield requests


CONTROLS = ("control shuffled", "control generic")


def estimated(config: Config, out: Path, sample: int = ALL, features: str = "all") -> Estimate:
    with Catalog.open(out / "catalog.duckdb") as catalog:
        return estimate(config, catalog, out, sample=sample, only=ids_of(catalog, features))


def totals(found: Estimate, *stages: str) -> tuple[int, int]:
    rows = [row for row in found.rows if row.stage in stages]
    return sum(row.requests for row in rows), sum(row.chars for row in rows)


def sums(asked: list[Request], *purposes: str) -> tuple[int, int]:
    chosen = [request for request in asked if request.purpose in purposes]
    return len(chosen), sum(len(message.content) for request in chosen for message in request.messages)


def test_it_is_what_a_run_then_asks(out: Path, tiny_settings: dict[str, object], asked: list[Request]) -> None:
    config = configured(tiny_settings)
    before = estimated(config, out)
    assert [(row.stage, row.part) for row in before.rows] == [
        ("explain", "token_activation"), ("score", "logprob_free"), ("score", "detection"),
        *((stage, part) for stage in CONTROLS for part in ("logprob_free", "detection"))]  # fmt: skip
    assert before.rows[3].features == 6 and before.rows[0].features == before.rows[1].features >= 8
    assert before.money == before.money_most == 0 and "$0.00" in before.summary()
    asked.clear()
    explain_stage(config, out)
    assert sums(asked, "explain") == totals(before, "explain") and len(asked) == before.rows[0].requests
    between = estimated(config, out)  # labels are there: what remains is the same
    assert between.rows == before.rows[1:]
    asked.clear()
    score_stage(config, out)
    assert sums(asked, "simulate", "detect") == totals(before, "score", *CONTROLS) and before.rows[3].requests > 0
    assert sums(asked, "detect")[0] == sum(row.requests for row in before.rows if row.part == "detection")
    after = estimated(config, out)
    assert not after.rows and "nothing is left to be asked" in after.notes
    # Random directions cost what so many features cost, whatever is done already.
    besides = estimated(configured(tiny_settings, score__random_directions=4), out)
    assert [(row.stage, row.features) for row in besides.rows] == [
        ("directions: explain", 4), ("directions: score", 4), ("directions: score", 4)]  # fmt: skip
    a_feature = [row.requests / row.features for row in before.rows[:3]]
    assert [row.requests / 4 for row in besides.rows] == pytest.approx(a_feature, rel=0.25) and besides.rows[
        0
    ].requests == 4
    # What a run would refuse, an estimate does, too.
    for changed in ({"negatives__per_kind": 8}, {"steering__enabled": True}):
        with pytest.raises(UserError, match=r"run.*: autointerp (negatives|steer)"):
            estimated(configured(tiny_settings, **changed, explain__explainer="dual"), out)


def test_of_some_features_it_is_what_they_ask(
    out: Path, tiny_settings: dict[str, object], asked: list[Request]
) -> None:
    config, some = configured(tiny_settings), "0-5"
    before = estimated(config, out, features=some)
    assert 0 < before.rows[0].features <= 6
    asked.clear()
    explain_stage(config, out, some)
    assert sums(asked, "explain") == totals(before, "explain")
    between = estimated(config, out, features=some)
    asked.clear()
    score_stage(config, out, some)
    assert sums(asked, "simulate", "detect") == totals(between, "score", *CONTROLS)
    assert not estimated(config, out, features=some).rows and estimated(config, out).rows
    with pytest.raises(UserError, match="99"):
        estimated(config, out, features="99")
    with pytest.raises(UserError, match="no metric to rank labels by"):
        estimated(configured(tiny_settings, score__rank_by="ess_corpus"), out)


def test_what_the_journal_holds_is_not_counted_again(
    out: Path, tmp_path: Path, tiny_settings: dict[str, object], asked: list[Request]
) -> None:
    config = configured(tiny_settings)
    shutil.copytree(out, tmp_path / "other")
    before = estimated(config, out)
    explain_stage(config, out)
    shutil.copytree(out / "journal", tmp_path / "other" / "journal")  # as if the catalog had been lost
    asked.clear()
    again = estimated(config, tmp_path / "other")
    row = again.rows[0]
    assert (row.requests, row.chars, row.known) == (0, 0, before.rows[0].requests)
    assert again.rows[1:] == before.rows[1:]
    assert not [request for request in asked if request.purpose == "explain"]
    assert any(f"about {row.known} further requests are answered by the journal" in note for note in again.notes)


def test_items_that_are_tried_anew_ask_for_fresh_answers(
    out: Path, tiny_settings: dict[str, object], asked: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`retry` was interrupted: the journal holds answers that are of no use, and their items are at their second draw."""
    config = configured(tiny_settings)
    with monkeypatch.context() as patch:

        async def rubbish(self: MockProvider, request: Request, payload: dict) -> Reply:
            return Reply('{"rubbish": 1}', usage=Usage(5, 5))

        patch.setattr(MockProvider, "send", rubbish)
        explain_stage(config, out)
    key = explainer_key(config, config.explain.explainer)
    with Catalog.open(out / "catalog.duckdb", write=True) as catalog:
        failed = failed_items(catalog, "explain", key)
        assert len(failed) >= 8
        draw_again(catalog, "explain", key, failed)
        catalog.rows("DELETE FROM explanations")
    found = estimated(config, out)
    assert found.rows[0].stage == "explain" and found.rows[0].requests >= len(failed)
    asked.clear()
    explain_stage(config, out)
    assert sums(asked, "explain") == totals(found, "explain")


def test_of_refine_all_steps_are_reckoned_with(
    out: Path, tiny_settings: dict[str, object], asked: list[Request]
) -> None:
    config = configured(tiny_settings, explain__explainer="refine")
    found = estimated(config, out)
    row, note = found.rows[0], "with all 3 steps of refine, which may end before"
    assert row.part == "refine" and note in found.notes
    patient = configured(tiny_settings, explain__explainer="refine", explain__patience=3)
    assert (row.requests, row.chars) == totals(estimated(patient, out), "explain")
    assert note not in estimated(patient, out).notes
    asked.clear()
    explain_stage(config, out)
    asked_for = [sums(asked, purpose)[0] for purpose in ("explain", "rerank", "probe")]
    assert 0 < sum(asked_for) < row.requests
    asked.clear()
    shutil.rmtree(out / "journal")
    explain_stage(patient, out)
    assert sum(sums(asked, purpose)[0] for purpose in ("explain", "rerank", "probe")) == row.requests


def test_a_sample_is_scaled(out: Path, tiny_settings: dict[str, object]) -> None:
    config = configured(tiny_settings)
    whole, part = estimated(config, out), estimated(config, out, sample=3)
    assert [row.sampled for row in part.rows] == [3] * 7
    assert [row.features for row in part.rows] == [row.features for row in whole.rows]
    assert part.rows[0].requests == whole.rows[0].requests  # one for each
    for few, all_ in zip(part.rows, whole.rows, strict=True):
        assert few.chars == pytest.approx(all_.chars, rel=0.3)
        assert few.input.expected == pytest.approx(few.chars / 3, rel=1e-4)
    assert any("3 of 6 (control shuffled)" in note for note in part.notes)


def test_tokens_as_in_earlier_answers(
    out: Path, tiny_settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = SimpleNamespace(replies=50, tokens_per_char=0.5, mean_output=40.0, p95_output=70.0)
    calibration = {"mock": {"explain": known, "simulate": known, "detect": known}}
    monkeypatch.setattr(Journal, "calibration", lambda self, model: calibration[model], raising=False)
    Journal(journal_folder(out)).close()
    found = estimated(configured(tiny_settings), out)
    for row in found.rows:
        assert row.calibrated and row.input.expected == row.chars / 2
        assert (row.output.expected, row.output.most) == (40 * row.requests, 70 * row.requests)
    assert any("as in earlier answers" in note for note in found.notes)


def test_without_a_model_it_costs_nothing(out: Path, tiny_settings: dict[str, object]) -> None:
    found = estimated(configured(tiny_settings, explain__explainer="lexicon"), out)
    assert found.rows == () and found.money == 0 and "costs nothing" in found.summary()
    assert found.notes == ("the explainer lexicon asks no model and costs nothing",
                           "the simulator lexicon asks no model and costs nothing")  # fmt: skip
    half = estimated(configured(tiny_settings, score__simulator="lexicon"), out)
    assert [row.stage for row in half.rows] == ["explain"] and "the simulator lexicon" in half.notes[0]
    other = estimated(configured(tiny_settings, explain__explainer="lexicon", score__simulator="logprob_free"), out)
    assert [row.stage for row in other.rows] == ["score", "score", *(stage for stage in CONTROLS for _ in range(2))]
    alone = configured(tiny_settings, explain__explainer="lexicon", score__simulator="logprob_free",
                       score__scorers=("simulation",))  # fmt: skip
    assert [row.part for row in estimated(alone, out).rows] == ["logprob_free"] * 3
    judged = configured(tiny_settings, explain__explainer="lexicon", score__scorers=("simulation", "detection"))
    assert [row.part for row in estimated(judged, out).rows] == ["detection"] * 3
    with pytest.raises(UserError, match="expected simulation among them"):
        estimated(configured(tiny_settings, score__scorers=("detection",)), out)


def test_two_models_have_two_prices(
    out: Path, tiny_settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    config = configured(
        tiny_settings, explain__provider="openai", explain__model="gpt-5-mini", score__provider="anthropic",
        score__model="claude-haiku-4-5",
    )  # fmt: skip
    explain, score, _, controls, *_ = estimated(config, out).rows
    assert (explain.provider, explain.model) == ("openai", "gpt-5-mini")
    assert (score.provider, controls.model) == ("anthropic", "claude-haiku-4-5")
    for row, given, cached, written in ((explain, 0.25, 0.025, 2.0), (score, 1.0, 0.1, 5.0)):
        assert row.money is not None and row.batch is not None
        asked = (row.input.expected - row.cached) * given + row.cached * cached
        assert row.money.expected == pytest.approx((asked + row.output.expected * written) / 1e6)
        assert row.money.most > row.money.expected and row.batch.expected == row.money.expected / 2
    both = config.model_copy(update={"score": config.score.model_copy(update={"provider": None, "model": None})})
    assert {row.model for row in estimated(both, out).rows} == {"gpt-5-mini"}
    with pytest.raises(UserError, match="--label-model"):
        estimated(configured(tiny_settings, explain__model=None), out)


def test_the_command(
    capsys: pytest.CaptureFixture[str], out: Path, tmp_path: Path
) -> None:  # fmt: skip
    def paths() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in out.rglob("*")}

    before = paths()
    model = ["--provider", "openai", "--label-model", "unheard-of", "--base-url", "http://127.0.0.1:9/v1", "--out", out]
    code, shown = estimate_command(capsys, *model)
    assert code == 0 and "unknown" in shown and "--prices FILE.toml" in shown and "rule of thumb" in shown
    lines = shown.splitlines()
    begin = next(number for number, line in enumerate(lines) if "[[price]]" in line)
    (tmp_path / "prices.toml").write_text("\n".join(lines[begin : begin + 4]))
    code, shown = estimate_command(capsys, *model, "--prices", tmp_path / "prices.toml", "--sample", 2)
    assert code == 0 and "unknown" not in shown and "$" in shown and "2 of 6 (control shuffled)" in shown
    assert paths() == before
    code, shown = estimate_command(capsys, "--explainer", "lexicon", "--out", out)
    assert code == 0 and "lexicon asks no model and costs nothing" in shown


def estimate_command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    import sys

    from autointerp import cli

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["autointerp", "estimate", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return code, capsys.readouterr().out


def test_before_its_time_and_with_other_settings(
    capsys: pytest.CaptureFixture[str], out: Path, tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    code, err = run(capsys, "estimate", "--out", tmp_path / "nothing")
    assert code == 2 and "autointerp sample" in err and not (tmp_path / "nothing").exists()
    settings = options(tiny_settings, sample__features="0-15", sample__top=7)
    code, err = run(capsys, "estimate", *settings, "--out", out)
    assert code == 2 and "sample.top was 5, now 7" in err
    wrong = tmp_path / "prices.toml"
    wrong.write_text('[[price]]\nmodel = "mock"\ninput = "cheap"\noutput = 1\n')
    code, err = run(capsys, "estimate", "--prices", wrong, "--out", out)  # the folder's own settings are taken up
    assert code == 2 and "prices.toml: price[0].input ('mock') is 'cheap'" in err
