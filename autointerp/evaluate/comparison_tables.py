"""A comparison as tables, as Markdown and as JSON. Pure text; nothing is computed here."""

import json
from dataclasses import asdict

from autointerp.evaluate.comparison import SIGNIFICANT, Compared, Comparison
from autointerp.evaluate.over_features import Estimate
from autointerp.evaluate.tables import Table, markdown_table

_NONE = "–"


def heading(found: Comparison) -> str:
    """Which sides, on one line."""
    return f"{found.metric} of {found.scorer}. A: {found.first}; B: {found.second}"


def tables(found: Comparison, shown: int = 5) -> list[Table]:
    """What it comes to over all features; and the `shown` features with the largest differences either way."""
    if found.groups is not None:
        return [_of_groups(found)]
    differ = any(one.difference.value for one in found.features)
    return [_summary(found), _of_features(found, shown)] if shown and differ else [_summary(found)]


def _summary(found: Comparison) -> Table:
    rows = [["features with a score on both sides", f"{len(found.features):,}"],
            ["only on side A / only on side B", f"{found.only_first:,} / {found.only_second:,}"]]  # fmt: skip
    if (over := found.over) is not None:
        surely = [one for one in found.features if one.q is not None and one.q <= SIGNIFICANT]
        better = sum(one.difference.value is not None and one.difference.value > 0 for one in surely)
        tested = sum(one.q is not None for one in found.features)
        rows += [
            ["mean difference A − B", _text(over.mean)],
            ["median difference A − B", _text(over.median)],
            ["A / B higher / equal", f"{over.positive:,} / {over.negative:,} / {over.n - over.positive - over.negative:,}"],
            ["p, sign test / Wilcoxon signed-rank", f"{_p(over.sign_p)} / {_p(over.wilcoxon_p)}"],
            [f"surely A / surely B, of {tested:,} (q ≤ {SIGNIFICANT:g})", f"{better:,} / {len(surely) - better:,}"],
        ]  # fmt: skip
    if (ranks := found.ranks) is not None:
        rows += [
            ["rank correlation, Spearman's ρ", _text(ranks.spearman)],
            ["rank correlation, Kendall's τ-b", _text(ranks.kendall)],
        ]
    return Table("A against B", ["over all features", found.metric], rows)


def _of_groups(found: Comparison) -> Table:
    groups = found.groups
    assert groups is not None
    rows = [
        ["features A / B", f"{groups.n[0]:,} / {groups.n[1]:,}"],
        ["median A / B", f"{groups.median[0]:.3f} / {groups.median[1]:.3f}"],
        ["difference of medians", _text(groups.difference)],
        ["P(A > B)", f"{groups.above:.3f}"],
        ["p, Mann–Whitney", _p(groups.mann_whitney_p)],
    ]
    return Table("A against B, unpaired", ["over all features", found.metric], rows)


def _of_features(found: Comparison, shown: int) -> Table:
    ordered = sorted(
        (one for one in found.features if one.difference.value),
        key=lambda one: (-(one.difference.value or 0.0), one.feature_id),
    )
    chosen = {one.feature_id: one for one in [*ordered[:shown], *ordered[-shown:]]}
    return Table("Largest differences", _HEADER, [_row(one) for one in chosen.values()])


_HEADER = ["feature", "A", "B", "A − B", "95 % interval", "q", "contexts"]


def _row(one: Compared) -> list[str]:
    found = one.difference
    interval = _NONE if found.lo is None or found.hi is None else f"{found.lo:+.3f} … {found.hi:+.3f}"
    value = _NONE if found.value is None else f"{found.value:+.3f}"
    return [f"{one.feature_id}", f"{one.first:.3f}", f"{one.second:.3f}", value, interval, _p(one.q),
            f"{found.n} in common" if one.contexts == "same" else "other"]  # fmt: skip


def notes(found: Comparison) -> list[str]:
    """What the tables cannot say by themselves, a sentence each."""
    said = list(found.notes)
    if found.groups is None:
        said += [
            "A − B of a feature is taken on the contexts that both sides were scored on; A and B are the stored scores, on all "
            "contexts of each",
            "q: by Benjamini and Hochberg over features, so of the features with q ≤ 0.05 at most one in twenty should be none",
            "intervals over features: 95 %, features resampled",
        ]
    return said


def markdown(found: Comparison) -> str:
    """A page with all features."""
    parts = [f"# Comparison\n\n{heading(found)}", *(markdown_table(table) for table in tables(found, 0))]
    parts.append("\n".join(f"- {note}" for note in notes(found)))
    if found.features:
        parts.append(markdown_table(Table("All features", _HEADER, [_row(one) for one in found.features])))
    return "\n\n".join(parts) + "\n"


def as_json(found: Comparison) -> str:
    """Everything."""
    return json.dumps(asdict(found), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _text(estimate: Estimate) -> str:
    if estimate.value is None:
        return _NONE
    if estimate.lo is None or estimate.hi is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.lo:.3f} … {estimate.hi:.3f})"


def _p(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
