"""Which scorers and which simulator a configuration means, with its settings: the one place where they are looked up."""

from collections.abc import Mapping
from pathlib import Path

from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.llm.session import provider_for
from autointerp.score import Scorer, Settings, Simulator, scorers, simulators
from autointerp.score.simulating import BASELINE
from autointerp.score.simulation import SCORER


def simulator_name(config: Config) -> str:
    """The configured simulator, or the one that suits the labels."""
    return config.score.simulator or (BASELINE if config.explain.explainer == BASELINE else "logprob_free")


def settings_of(config: Config, *, asked_again: bool = True) -> Settings:
    """The settings of a run for its scorers and simulators."""
    folder = config.explain.prompt_dir
    return Settings(
        Path(folder) if folder else None, config.score.texts_per_request, asked_again, simulator_name(config),
        config.score.resamples, config.seed, asks_logprobs(config),
    )  # fmt: skip


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
    if SCORER not in names:
        raise UserError(
            f"score.scorers is {', '.join(names) or 'empty'}; expected {SCORER} among them: the catalog ranks by its "
            f"{config.score.rank_by}"
        )
    settings = settings_of(config)
    found = {name: scorers.get(name).configured(settings) for name in dict.fromkeys(names)}
    if len(asking(found)) > 1:
        return found
    settings = settings_of(config, asked_again=False)
    return {name: scorer.configured(settings) for name, scorer in found.items()}


def asking(parts: Mapping[str, Scorer]) -> dict[str, Scorer]:
    """Those that ask a language model."""
    return {name: scorer for name, scorer in parts.items() if scorer.wants.model}


def part_of(name: str, scorer: Scorer) -> tuple[str, str]:
    """What people are told of a scorer: its kind and name, or those of the simulator that works for it."""
    return ("simulator", scorer.simulator) if scorer.simulator else ("scorer", name)
