"""What a run will ask and cost, before anything is sent: from the real prompts of a sample of its features.

The configured explainer and scorers run on the sample with an `ask` that sends nothing: it answers from the journal, else
as the mock provider does, so that the second stage's prompts are real, too. What they asked is scaled up to the features
that the stages have still to do.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.explain import stage as explaining
from autointerp.explain.at_hand import experiments
from autointerp.explain.supply import require_supplies
from autointerp.harvest.null import null_run
from autointerp.harvest.runs import Run
from autointerp.llm.journal import Journal
from autointerp.llm.price import money_text
from autointerp.llm.prices import price_lines, unknown_price_note
from autointerp.llm.session import journal_folder
from autointerp.projection import CHARS_PER_TOKEN, FEWEST_CHARS_PER_TOKEN, Row
from autointerp.score.adaptive import require_whole
from autointerp.score.parts import embedding, part_of, require_negatives, scorers_for
from autointerp.score.rankable import require_rank
from autointerp.trials import Trial, untiring

SAMPLE = 20
_OF_DIRECTIONS = 5  # features that stand for random directions: few, beside what the features ask


@dataclass(frozen=True, slots=True)
class Estimate:
    """A row for each stage that has something to ask of a model; `notes` are sentences that belong to it."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def money(self) -> float | None:
        """Expected US dollars; None where a price is not known."""
        return _total(row.money.expected if row.money else None for row in self.rows)

    @property
    def money_most(self) -> float | None:
        """US dollars that it costs about at most; None where a price is not known."""
        return _total(row.money.most if row.money else None for row in self.rows)

    def summary(self) -> str:
        """One line, to be said before a run."""
        if not self.rows:
            return "no model has to be asked: it costs nothing"
        requests = sum(row.requests for row in self.rows)
        tokens = " + ".join(f"{sum(part):,.0f}" for part in zip(
            *((row.input.expected, row.output.expected) for row in self.rows), strict=True))  # fmt: skip
        money = f"{money_text(self.money)}, at most about {money_text(self.money_most)}"
        return f"about {requests:,} requests, {tokens} tokens, {'price unknown' if self.money is None else money}"


def _total(amounts: Iterable[float | None]) -> float | None:
    total = 0.0
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total


def estimate(
    config: Config, catalog: Catalog, out: Path, *, sample: int = SAMPLE, only: frozenset[int] | None = None
) -> Estimate:
    """What is left to ask for the run folder `out`, by the prompts of up to `sample` features a stage; of the features in `only`.

    The sampling must be finished. Raises UserError where the run would: a model is not named, a provider lacks what a part
    needs, what an explainer or scorer is to be shown was not looked for, adaptive scoring compares all features and only some are
    meant, the file of prices is wrong.
    """
    explainer = explaining.explainer_for(config, config.explain.explainer)
    require_rank(config)
    require_whole(config, only)
    require_supplies(config, catalog, explainer)
    require_negatives(config, catalog)
    parts = [("explainer", config.explain.explainer, explainer.needs_model),
             *((*part_of(name, scorer), scorer.wants.model or scorer.wants.embedder)
               for name, scorer in scorers_for(config).items())]  # fmt: skip
    free = [f"the {kind} {part} asks no model and costs nothing" for kind, part, needs in parts if not needs]
    if len(free) == len(parts):
        return Estimate((), tuple(free))
    rows = [row for row in _tried(config, catalog, out, sample, only=only) if row.features]
    rows += _of_random_directions(config, catalog, out, sample)
    early = explaining.explainer_for(untiring(config), config.explain.explainer).version != explainer.version
    notes = [*free, *_notes(rows)]
    if rows and embedding(scorers_for(config)):
        notes.append(
            "a text that several features share is embedded once; beyond the sample it is counted for each of them"
        )
    if any(row.stage.startswith("directions") for row in rows):
        notes.append(f"with {config.score.random_directions:,} random directions (score.random_directions)")
    if rows and experiments(explainer):
        notes.append(
            f"how many steps {config.explain.explainer} takes is the model's choice: tried with a call of each tool; after "
            f"{config.explain.investigate_tokens:,} tokens (explain.investigate_tokens) it makes no more"
        )
    elif rows and early:
        notes.append(f"with all {config.explain.steps} steps of {config.explain.explainer}, which may end before")
    return Estimate(tuple(rows), tuple(notes))


def _of_random_directions(config: Config, catalog: Catalog, out: Path, sample: int) -> list[Row]:
    """What they cost besides: what their own run has left to ask, or as much as so many features."""
    null, count = null_run(Run(config, out)), config.score.random_directions
    if count and null.facts() is not None:
        with Catalog.open(null.catalog) as of_null:
            rows = _tried(null.config, of_null, null.out, sample)
    elif count:
        rows = _tried(null.config, catalog, out, min(sample, _OF_DIRECTIONS), anew=count)
    else:
        rows = []
    return [replace(row, stage=f"directions: {row.stage}") for row in rows if row.features]


def _tried(
    config: Config, catalog: Catalog, out: Path, sample: int, *, anew: int = 0, only: frozenset[int] | None = None
) -> list[Row]:
    with ExitStack() as stack:
        journal = None
        if journal_folder(out).is_dir():
            journal = stack.enter_context(Journal(journal_folder(out), read_only=True))
        return asyncio.run(Trial(config, catalog, out, journal, anew=anew, only=only).rows(sample))


def _notes(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["nothing is left to be asked"]
    sampled = dict.fromkeys(
        f"{row.sampled:,} of {row.features:,} ({row.stage})" for row in rows if row.sampled < row.features
    )
    notes = [f"from the prompts of {', '.join(sampled)}" if sampled else "from all the prompts"]
    if known := sum(row.known for row in rows):
        notes.append(f"about {known:,} further requests are answered by the journal and cost nothing")
    if all(row.calibrated for row in rows):
        notes.append(
            "tokens as in earlier answers of the model in this folder; at most: the 95th percentile of its answers"
        )
    else:
        notes.append(
            f"tokens by rule of thumb, {CHARS_PER_TOKEN:g} characters each, and answers as short as the mock's: a model that "
            f"reasons writes more; at most: {FEWEST_CHARS_PER_TOKEN:g} characters a token, and every answer as long as allowed"
        )
    notes.append(
        "answers that are refused or of no use are asked for once more, which is not counted; --budget is a firm limit"
    )
    unpriced = dict.fromkeys(row.model for row in rows if row.price is None)
    notes += [f"{unknown_price_note(model)}:\n{price_lines(model)}" for model in unpriced]
    sources = dict.fromkeys(
        f"{row.price.source}, read on {row.price.read}" for row in rows if row.price and row.price.read
    )
    return [*notes, *(f"prices are those of {source}" for source in sources)]
