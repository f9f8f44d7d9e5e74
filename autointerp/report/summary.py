"""The head of the report: what was run, how good the scores are beside their control, and what to be careful about."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any

from autointerp.catalog import pages
from autointerp.catalog.authors import Author, graders, labellers
from autointerp.catalog.controls import read_controls
from autointerp.catalog.run_facts import Conformance, RunFacts, run_facts
from autointerp.report.controls import ControlLine, control_lines, control_warnings
from autointerp.report.distribution import Distribution, draw
from autointerp.report.scores import ScoreLine, score_lines
from autointerp.report.text import visible
from autointerp.score.scoreboard import Line, scoreboard

if TYPE_CHECKING:
    import duckdb

FEW_CONTEXTS = 20
"""Below this median number of scored contexts a feature the ranking of neighbours is mostly noise: a warning."""
L0_RANGE = (0.5, 1.5)
"""Measured over expected L0 outside of which the report warns: the conformance gate's own limits."""
POOR_FVU = 0.5
"""Share of the variance that the SAE may leave unexplained before the report warns."""
_NAMED = 3  # scorers in a row of the facts


@dataclass(frozen=True, slots=True)
class Fact:
    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    lead: str
    facts: Sequence[Fact]
    tallies: Sequence[Fact]
    scores: Sequence[ScoreLine]
    ranked: ScoreLine | None
    distribution: Distribution | None
    warnings: Sequence[str]
    controls: Sequence[ControlLine]
    failures: Sequence[pages.FailureRow]
    spend: Sequence[pages.SpendRow]


def summarise(connection: "duckdb.DuckDBPyConnection", shown: int) -> Summary:
    """Read the head of the report. `shown` is the number of features that the report lists."""
    run, counts, board = run_facts(connection), pages.counts(connection), scoreboard(connection)
    bins = pages.score_distribution(connection)
    failed, controls = pages.failures(connection), read_controls(connection)
    scores = score_lines(board)
    return Summary(
        lead=_lead(run, counts, shown),
        facts=[
            *_facts(run),
            *_authors("Labels", labellers(connection)),
            *_authors("Scores", graders(connection)),
            *_seed(run),
        ],
        tallies=list(_tallies(counts)),
        scores=scores,
        ranked=next((line for line in scores if line.ranks), None),
        distribution=draw(bins, counts.median, counts.shuffled_median) if bins else None,
        warnings=[*control_warnings(controls), *_warnings(run, board, counts, failed)],
        controls=control_lines(controls),
        failures=[replace(row, reason=visible(row.reason)) for row in failed],
        spend=[replace(row, **_visible_names(row)) for row in pages.spend_rows(connection)],
    )


def _visible_names(row: pages.SpendRow) -> dict[str, Any]:
    return {"purpose": visible(row.purpose or "–"), "model": visible(row.model or "–")}


def _lead(run: RunFacts, counts: pages.Counts, shown: int) -> str:
    what = _name(run.sae) if run.sae else "a sparse autoencoder"
    where = f" on {_name(run.subject)}" if run.subject else ""
    if counts.n_features == 0:
        return f"The catalog of {what}{where} holds no features."
    listed = f"{counts.n_features:,}" if shown >= counts.n_features else f"The first {shown:,} of {counts.n_features:,}"
    named = f"{listed} {_plural('feature', counts.n_features)} of {what}{where}"
    return f"{named}: where each fires, what it is said to mean, and how well that holds."


def _name(text: str) -> str:
    """A name for strangers: of a path on somebody's machine only the last part."""
    local = text.startswith(("/", "~", "./", "../")) or PureWindowsPath(text).drive
    return visible(PureWindowsPath(text).name if local else text)


def _facts(run: RunFacts) -> Iterator[Fact]:
    gate = run.conformance
    texts = (("Model", run.subject, ""), ("SAE", run.sae, run.sae_format), ("Hookpoint", run.hookpoint, ""))
    for name, text, note in texts:
        if text:
            yield Fact(name, _name(text), visible(note or ""))
    if run.corpus:
        yield Fact("Corpus", _name(run.corpus), f"{run.documents:,} documents" if run.documents is not None else "")
    if run.tokens is not None:
        length = f" of {run.window}" if run.window else ""
        yield Fact("Tokens", f"{run.tokens:,}", f"{run.windows:,} windows{length}" if run.windows is not None else "")
    if gate.l0 is not None:
        yield Fact("L0", f"{gate.l0:.3g}", f"expected {gate.l0_expected:.3g}" if gate.l0_expected is not None else "")
    if gate.fvu is not None:
        measured = f"measured on {gate.tokens:,} tokens" if gate.tokens is not None else ""
        yield Fact("Variance unexplained", f"{gate.fvu:.3g}", measured)
    yield from _loss_fact(gate)


def _authors(what: str, found: Sequence[Author]) -> Iterator[Fact]:
    """Who labelled or scored, a line for each model that was asked."""
    by_model: dict[str, list[str]] = {}
    for author in found:
        asked = "no model asked" if author.model is None else f"model {author.model}"
        by = f", provider {author.provider}" if author.provider else ""
        by_model.setdefault(asked + by, []).append(author.name)
    for asked, names in by_model.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield Fact(what, visible(", ".join(names[:_NAMED]) + more), visible(asked))


def _seed(run: RunFacts) -> Iterator[Fact]:
    if run.seed is not None:
        yield Fact("Seed", str(run.seed), f"autointerp {visible(run.version)}" if run.version else "")


def _loss_fact(gate: Conformance) -> Iterator[Fact]:
    if gate.loss_recovered is not None:
        notes = ["against zeros in the hidden state's place"]
        if gate.loss_recovered_mean is not None:
            notes.append(f"{gate.loss_recovered_mean:.1%} against its mean")
        if gate.loss_plain is not None and gate.loss_sae is not None:
            notes.append(f"{gate.loss_plain:.3f} nats a token, {gate.loss_sae:.3f} with the SAE")
        yield Fact("Loss recovered", f"{gate.loss_recovered:.1%}", "; ".join(notes))
    elif gate.loss_reason:
        yield Fact("Loss recovered", "undefined", visible(gate.loss_reason))


def _tallies(counts: pages.Counts) -> Iterator[Fact]:
    yield Fact("features", f"{counts.n_features:,}")
    yield Fact("labelled", f"{counts.n_labelled:,}")
    yield Fact("scored", f"{counts.n_scored:,}")
    optional = (
        ("score undefined", counts.n_undefined),
        ("score failed", counts.n_score_failed),
        ("dead", counts.n_dead),
        ("rare", counts.n_rare),
        ("dense", counts.n_dense),
    )
    yield from (Fact(name, f"{n:,}") for name, n in optional if n)


def _warnings(
    run: RunFacts, board: Sequence[Line], counts: pages.Counts, failed: Sequence[pages.FailureRow]
) -> Iterator[str]:
    yield from _conformance_warnings(run.conformance)
    if counts.n_scored:
        yield from _score_warnings(board, counts)
    elif counts.n_features:
        yield "No feature has a score, so the features are listed by number, not by quality."
    if failed:
        named = (f"{row.n:,} {_plural(row.what, row.n)} {row.status} ({_brief(row.reason)})" for row in failed[:5])
        more = ", and others listed below" if len(failed) > 5 else ""
        yield f"Without a result, and counted as such, never as zero: {', '.join(named)}{more}."


def _brief(reason: str, length: int = 80) -> str:
    text = visible(reason)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _plural(word: str, n: int) -> str:
    return word if n == 1 else f"{word}s"


def _conformance_warnings(gate: Conformance) -> Iterator[str]:
    if gate.problem:
        yield f"The conformance gate found: {visible(gate.problem)}."
        return
    if gate.l0 is not None and gate.l0_expected and not L0_RANGE[0] <= gate.l0 / gate.l0_expected <= L0_RANGE[1]:
        yield (
            f"The SAE has {gate.l0:.3g} active features a token where {gate.l0_expected:.3g} were expected: "
            "it may have been read at the wrong place or with the wrong scale."
        )
    if gate.fvu is not None and gate.fvu > POOR_FVU:
        yield f"The SAE leaves {gate.fvu:.0%} of the variance unexplained: its features miss much of the model's state."


def _score_warnings(board: Sequence[Line], counts: pages.Counts) -> Iterator[str]:
    """Whether labels are better than their controls is the gates' to say: here only that there was nothing to gate."""
    if not any(line.shuffled for line in board) and any(line.of_label for line in board):
        yield "Shuffled labels were not scored: without this control there is nothing to compare these scores with."
    if counts.median_contexts is not None and counts.median_contexts < FEW_CONTEXTS:
        yield (
            f"Scores rest on a median of {counts.median_contexts:g} contexts a feature: "
            "differences between neighbours in the ranking are mostly noise."
        )
    if counts.n_lexical and counts.n_above_lexicon < counts.n_lexical / 2:
        few = "None" if counts.n_above_lexicon == 0 else f"Only {counts.n_above_lexicon:,}"
        verb = "predicts" if counts.n_above_lexicon <= 1 else "predict"
        yield (
            f"{few} of {counts.n_lexical:,} {_plural('label', counts.n_lexical)} {verb} clearly better than the lexicon, which "
            "has nothing but rules over the feature's own tokens."
        )
