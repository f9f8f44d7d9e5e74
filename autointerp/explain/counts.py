"""What explainers are told beside the texts: how often a feature is active, how strongly, on which tokens most and how surely.

The texts that are shown favour the strong ones, and a label made from them alone misses the weak half of what the feature does.
The counts are of all windows of the explain split, as random draws show them: a draw of a stratum (a band of the active windows,
or the silent ones) stands for as many windows as there are in it, over the number of its draws. So that of a token that is rare
may be rough. Pure.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from autointerp.catalog.records import Context, FeatureEvidence
from autointerp.explain.marking import quoted
from autointerp.score.discretise import discretise
from autointerp.vocabulary import Vocabulary

TOKENS = 12  # listed at most
LEAST = 0.02  # of all active places; a token with less is not listed
_RANGES = {"0": (0, 0), "1-3": (1, 3), "4-6": (4, 6), "7-10": (7, 10)}


@dataclass(slots=True)
class _Token:
    """Of a token: at how many places it stands, at how many of them it is active, and the sum of its levels there."""

    places: float = 0.0
    active: float = 0.0
    levels: float = 0.0


def counts_json(evidence: FeatureEvidence, vocabulary: Vocabulary) -> str:
    """`"counts":{"active": percent, "peaks": {range: percent, …}, "tokens": [[token, percent of the active places, mean level
    there, percent of its own places], …]}`, a line.

    "active" is left out where the sizes of the strata are not known. Where a feature has no random draws its strongest windows
    stand in.
    """
    found: defaultdict[int, _Token] = defaultdict(_Token)
    peaks: defaultdict[int, float] = defaultdict(float)
    for context, weight in _weighed(evidence):
        levels = discretise(context.activations, evidence.max_activation)
        if context.peak > 0:
            peaks[int(levels.max())] += weight
        on = context.activations > 0
        for token, level, active in zip(context.tokens.tolist(), levels.tolist(), on.tolist(), strict=True):
            one = found[token]
            one.places += weight
            one.active += weight * active
            one.levels += weight * level
    parts = [f'"peaks":{json.dumps(_spread(peaks))}', f'"tokens":[{",".join(_tokens(found, vocabulary))}]']
    sizes = {band: count for (split, band), count in evidence.stratum_windows.items() if split == "explain"}
    whole = sum(sizes.values())
    if 0 in sizes and whole > 0:
        parts.insert(0, f'"active":{100 * (1 - sizes[0] / whole):.2g}')
    return f'"counts":{{{",".join(parts)}}}'


def _weighed(evidence: FeatureEvidence) -> list[tuple[Context, float]]:
    """The random draws of the explain split, silent ones too, each with how many windows it stands for."""
    active = evidence.of("explain", ("band",)) or evidence.of("explain", ("top",))
    draws = [*active, *evidence.of("explain", ("silent",))]
    drawn = Counter(context.band for context in draws)
    return [
        (context, evidence.stratum_windows.get(("explain", context.band), drawn[context.band]) / drawn[context.band])
        for context in draws
    ]


def _spread(peaks: Mapping[int, float]) -> dict[str, int]:
    """Percent of the active windows by the level of their peak, in ranges; those without any are left out."""
    whole = sum(peaks.values())
    found = {
        name: sum(peaks.get(level, 0.0) for level in range(low, high + 1)) for name, (low, high) in _RANGES.items()
    }
    return {name: round(100 * weight / whole) for name, weight in found.items() if weight}


def _tokens(found: Mapping[int, _Token], vocabulary: Vocabulary) -> list[str]:
    """The tokens that are active most often; the mean level is rounded down."""
    whole = sum(one.active for one in found.values())
    ranked = sorted(found.items(), key=lambda item: (-item[1].active, item[0]))[:TOKENS]
    return [
        f"[{quoted(vocabulary.text(token))},{round(100 * one.active / whole)},{int(one.levels / one.active)},"
        f"{round(100 * one.active / one.places)}]"
        for token, one in ranked
        if one.active > 0 and one.active >= LEAST * whole
    ]
