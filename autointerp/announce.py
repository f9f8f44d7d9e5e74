"""What a stage says when it begins: who writes labels, who grades them, and whose model they ask. One line on stderr."""

import sys

from autointerp.config import Config, ModelAccess


def say_explainer(config: Config) -> None:
    """Who writes the labels."""
    from autointerp.explain import explainers

    name = config.explain.explainer
    _say(f"explain: explainer {name}", config.explaining() if explainers.get(name).needs_model else None)


def say_scorers(config: Config) -> None:
    """Who grades the labels."""
    from autointerp.score.parts import scorers_for

    found = scorers_for(config)
    names = (f"{name} (simulator {scorer.simulator})" if scorer.simulator else name for name, scorer in found.items())
    asks = any(scorer.wants.model for scorer in found.values())
    embeds = any(scorer.wants.embedder for scorer in found.values())
    _say(f"score: {', '.join(names)}", config.simulating() if asks else None, config.embedding() if embeds else None)


def _say(what: str, access: ModelAccess | None, embedder: ModelAccess | None = None) -> None:
    from autointerp.report.text import visible  # a name may come from a configuration of somebody else

    who = [f"provider {access.provider}, model {access.model}" if access else "no language model is asked" if embedder else
           "no model is asked"]  # fmt: skip
    if embedder:
        who.append(f"embedder {embedder.model} of {embedder.provider}")
    print(visible("; ".join([what, *who])), file=sys.stderr, flush=True)
