"""Which scorers and which simulator a configuration means, with its settings: the one place where they are looked up."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from autointerp.catalog.records import Label
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.explain import explainers
from autointerp.explain.supply import negatives_found
from autointerp.llm.abilities import Use
from autointerp.llm.session import provider_for
from autointerp.score import Scorer, Settings, Simulator, scorers, simulators
from autointerp.score.readings import ReadingName
from autointerp.score.simulating import BASELINE
from autointerp.score.simulation import SCORER

IN_WORDS = Label("a title", "a description")
"""What any model's label has, and no more."""
_SILENT, _SILENT_OF_A_MODEL = 100, 50
_LOOKED_AT = 50  # labels; an explainer writes all of them in one form
_FREE_CALIBRATION = 10  # contexts, where simulating costs nothing


def simulator_name(config: Config) -> str:
    """The configured simulator, or the one that suits the labels."""
    return config.score.simulator or (BASELINE if config.explain.explainer == BASELINE else "logprob_free")


def silent_contexts(config: Config, scorer: Scorer | None = None) -> int:
    """How many silent contexts a scorer grades labels on: as configured, else by what they cost. 100 is what the ranking's
    metric needs to see extra claims of nearly all features (docs/evaluation.md); where a model reads them, fewer: the first of
    the more, in the order of the sampling hash. Without a scorer: the most that any of the configured ones wants."""
    if config.score.silent is not None:
        return config.score.silent
    if scorer is None:
        return max(silent_contexts(config, one) for one in scorers_for(config).values())
    wants = scorer.wants
    return _SILENT_OF_A_MODEL if wants.model or wants.embedder or wants.bench else _SILENT


def settings_of(config: Config, *, asked_again: bool = True) -> Settings:
    """The settings of a run for its scorers and simulators."""
    folder, name = config.explain.prompt_dir, simulator_name(config)
    by = simulators.get(name)
    offers = _offers(config) if {"logprobs", "prompt_logprobs"} & set(by.needs) else ()
    calibration = config.score.calibration
    if calibration is None:
        calibration = 0 if by.needs_model else _FREE_CALIBRATION
    return Settings(
        Path(folder) if folder else None, config.score.texts_per_request, asked_again, name, config.score.resamples, config.seed,
        _reading(config, offers), offers, calibration,
        embed_label_prefix=config.score.embed_label_prefix, embed_text_prefix=config.score.embed_text_prefix,
        embed_dimensions=config.score.embed_dimensions, logprobs=asks_logprobs(config),
    )  # fmt: skip


def _offers(config: Config) -> tuple[str, ...]:
    """Capabilities of the provider that answers simulators."""
    can = provider_for(config.simulating()).capabilities
    return tuple(one.name for one in fields(can) if getattr(can, one.name))


def _reading(config: Config, offers: Sequence[str]) -> ReadingName:
    if config.score.reading != "auto":
        return config.score.reading
    return "exact" if "exact_logprobs" in offers else "bills23"


def asks_logprobs(config: Config) -> bool:
    """Whether verdicts are to come with log-probabilities: where the configuration leaves it open, where they cost nothing."""
    access = config.simulating()
    if config.score.logprobs is not None or not access.model:
        return bool(config.score.logprobs)
    can = provider_for(access).capabilities
    return can.logprobs and can.local


def simulator_for(config: Config) -> Simulator:
    """The configured simulator with the run's settings."""
    return simulators.get(simulator_name(config)).configured(settings_of(config))


def scorers_for(config: Config) -> dict[str, Scorer]:
    """The configured scorers by name, with the run's settings; by default simulation, and detection where a model simulates.

    Raises UserError where the one is missing by which the catalog ranks.
    """
    names = config.score.scorers
    if names is None:
        names = (SCORER, "detection") if simulator_for(config).needs_model else (SCORER,)
    by, metric = config.score.ranked()
    settings = settings_of(config)
    found = {name: scorers.get(name).configured(settings) for name in dict.fromkeys(names)}
    if by not in found:
        raise UserError(
            f"score.scorers is {', '.join(names) or 'empty'}; expected {by} among them: the catalog ranks by its {metric} "
            "(score.rank_by)"
        )
    if len(asking(found)) > 1:
        return found
    settings = settings_of(config, asked_again=False)
    return {name: scorer.configured(settings) for name, scorer in found.items()}


def asking(parts: Mapping[str, Scorer]) -> dict[str, Scorer]:
    """Those that ask a language model."""
    return {name: scorer for name, scorer in parts.items() if scorer.wants.model}


def embedding(parts: Mapping[str, Scorer]) -> dict[str, Scorer]:
    """Those that ask for vectors."""
    return {name: scorer for name, scorer in parts.items() if scorer.wants.embedder}


def names_of(parts: Mapping[str, Scorer]) -> str:
    """Scorers, or their simulators, in a row, for messages."""
    return ", ".join(" ".join(part_of(*item)) for item in parts.items())


def uses_of(config: Config, parts: Mapping[str, Scorer]) -> dict[str, Use]:
    """Which of the scorers, or their simulators, need each capability of a provider, and what to do without it."""
    users: dict[str, dict[str, Scorer]] = {}
    for name, scorer in parts.items():
        for need in (*scorer.wants.capabilities, *(("embeddings",) if scorer.wants.embedder else ())):
            users.setdefault(need, {})[name] = scorer
    uses = {need: Use(names_of(some), _instead(need, some)) for need, some in users.items()}
    if asks_logprobs(config) and "logprobs" not in uses:
        uses["logprobs"] = Use("score.logprobs", "ask for verdicts without: --set score.logprobs=false")
    return uses


def _instead(need: str, parts: Mapping[str, Scorer]) -> str:
    """What to do where a provider does not give what these scorers need."""
    advice = (
        ["name a model that makes them (--embedder, --embed-provider, --embed-base-url)"]
        if need == "embeddings"
        else []
    )
    if any(scorer.simulator for scorer in parts.values()):
        others = [name for name, one in simulators.items() if one.needs_model and need not in one.needs]
        advice += [f"choose another simulator (--simulator {' or '.join(others)})"] if others else []
    if alone := [name for name, scorer in parts.items() if not scorer.simulator]:
        advice.append(f"leave {', '.join(alone)} out of score.scorers")
    return ", or ".join(advice)


def require_readable(config: Config, catalog: Catalog, labels: str) -> None:
    """Raise UserError where the simulator can read none of the labels with that key."""
    scorer = next((one for one in scorers_for(config).values() if one.simulator), None)
    if scorer is None:
        return
    # Those with a rule first: it is read by whoever reads more than words.
    rows = catalog.rows(
        "SELECT title, description, kind, rule FROM explanations WHERE explainer_key = ? AND status = 'ok' "
        "ORDER BY rule IS NULL, feature_id LIMIT ?", [labels, _LOOKED_AT],
    )  # fmt: skip
    labels_seen = [
        Label(title, text, kind, None if rule is None else json.loads(rule)) for title, text, kind, rule in rows
    ]
    reasons = [why_unreadable(scorer.simulator, label) for label in labels_seen]
    if reasons and None not in reasons:
        raise cannot_read(scorer.simulator, config.explain.explainer, str(reasons[0]))


def why_unreadable(simulator: str, label: Label) -> str | None:
    """Why the simulator cannot read a label; None where it can."""
    told = getattr(simulators.get(simulator), "unreadable", None)
    reason: str | None = told(label) if told is not None else None
    return reason


def check_simulator(config: Config) -> None:
    """Before any label is there: raise UserError where a model is to write them, and the simulator does not read words."""
    scorer = next((one for one in scorers_for(config).values() if one.simulator), None)
    if scorer is not None and explainers.get(config.explain.explainer).needs_model:
        reason = why_unreadable(scorer.simulator, IN_WORDS)
        if reason is not None:
            raise cannot_read(scorer.simulator, config.explain.explainer, reason)


def cannot_read(simulator: str, explainer: str, reason: str) -> UserError:
    """The refusal of a simulator that has nothing to read in an explainer's labels."""
    others = [name for name, one in simulators.items() if one.needs_model]
    return UserError(
        f"the simulator {simulator} cannot read the labels of {explainer}: {reason}; choose another one that asks a model "
        f"({', '.join(others)}), or labels that it reads (--explainer {BASELINE})"
    )


def require_negatives(config: Config, catalog: Catalog) -> None:
    """Raise UserError where scorers are to look at hard negatives and the stage that finds them was not run with these
    settings.

    What was graded without them would never be graded again.
    """
    if not config.negatives.per_kind or not any(scorer.wants.negatives for scorer in scorers_for(config).values()):
        return
    if not negatives_found(config, catalog):
        raise UserError(
            f"negatives.per_kind is {config.negatives.per_kind}, but hard negatives were not looked for with these settings; run "
            f"first: autointerp negatives --out {catalog.path.parent}, or score without: --set negatives.per_kind=0"
        )


def part_of(name: str, scorer: Scorer) -> tuple[str, str]:
    """What people are told of a scorer: its kind and name, or those of the simulator that works for it."""
    return ("simulator", scorer.simulator) if scorer.simulator else ("scorer", name)
