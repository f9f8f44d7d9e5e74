"""Rules that predict a feature's activation from the tokens read so far: learning and applying them. Pure numpy.

In the spirit of Neuron to Graph (Foote et al. 2023): the shortest left context that decides the activation is found, and tokens
that serve alike in the same place are merged into one set. Here it is a suffix tree over the explain split's windows. A
node is a run of tokens that ends at the token in question; its value is the weighted mean activation where that run
occurs, shrunk towards the value of the run that is one token shorter. A longer run stays only if it pays: if it lowers the
squared error of the whole by more than a small share. Siblings of about the same value become one pattern.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.records import Context
from autointerp.errors import DataError

VERSION = 1
LEVELS = 10.0
NOTHING = -1  # stands for what is before the first token of a window

DEPTH = 4  # tokens of left context, the token itself included
SHRINKAGE = 2.0  # weight of the parent's value, in average positions
MIN_GAIN = 1e-3  # share of the total sum of squares that a pattern must explain to stay
MIN_WINDOWS = 2  # a run seen in one window only is not extended
MAX_PATTERNS = 40
SAME = 1.0  # siblings whose values round to the same multiple of this, on the scale 0..10, are merged

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pattern:
    """Matches where `parent` matches (-1: everywhere) and the token `depth` places back is one of `tokens`.

    `depth` 0 is the token itself. `value`: predicted activation, 0..10. `mass`: share of the feature's activation that falls
    where this is the deepest match. `tokens` are in the order of the activation on them.
    """

    parent: int
    depth: int
    tokens: tuple[int, ...]
    value: float
    mass: float


@dataclass(frozen=True, slots=True)
class Rule:
    """Patterns, parents before children; children of one parent have no token in common.

    `background`: the prediction where nothing matches. `explained`: share of the weighted variance on the explain split.
    """

    background: float
    patterns: tuple[Pattern, ...]
    explained: float

    def to_json(self) -> dict[str, Any]:
        patterns = [{"parent": p.parent, "depth": p.depth, "tokens": list(p.tokens), "value": round(p.value, 3),
                     "mass": round(p.mass, 4)} for p in self.patterns]  # fmt: skip
        return {"lexicon": VERSION, "background": round(self.background, 4), "explained": round(self.explained, 4),
                "patterns": patterns}  # fmt: skip

    @staticmethod
    def from_json(data: Any) -> "Rule":
        """Raises DataError for what is not a lexicon rule of this version."""
        if not isinstance(data, dict) or data.get("lexicon") != VERSION:
            raise DataError("the label has no lexicon rule of this version")
        patterns = tuple(
            Pattern(p["parent"], p["depth"], tuple(p["tokens"]), p["value"], p["mass"]) for p in data["patterns"]
        )
        return Rule(data["background"], patterns, data["explained"])


def predict(rule: Rule, tokens: Sequence[NDArray[np.int32]]) -> list[NDArray[np.float32]]:
    """Predicted activation, 0..10, at every token of each window: the value of the deepest pattern that matches."""
    lengths = [len(window) for window in tokens]
    flat = np.concatenate(tokens).astype(np.int64) if tokens else np.zeros(0, np.int64)
    offset = np.concatenate([np.arange(n) for n in lengths]) if tokens else np.zeros(0, np.int64)
    found = np.full(len(flat), rule.background)
    children: dict[int, list[int]] = {}
    for index, pattern in enumerate(rule.patterns):
        children.setdefault(pattern.parent, []).append(index)
    open_nodes = [(-1, np.arange(len(flat)))]
    while open_nodes:
        node, at = open_nodes.pop()
        if node not in children:
            continue
        keys = np.concatenate([rule.patterns[child].tokens for child in children[node]])
        owner = np.repeat(children[node], [len(rule.patterns[child].tokens) for child in children[node]])
        order = np.argsort(keys)
        keys, owner = keys[order], owner[order]
        back = _back(flat, offset, rule.patterns[children[node][0]].depth, at)
        place = np.minimum(np.searchsorted(keys, back), len(keys) - 1)
        hit = keys[place] == back
        for child in children[node]:
            matched = at[hit & (owner[place] == child)]
            found[matched] = rule.patterns[child].value
            open_nodes.append((child, matched))
    bounds = np.cumsum(lengths)[:-1]
    return [part.astype(np.float32) for part in np.split(np.clip(found, 0, LEVELS), bounds)] if tokens else []


def _back(flat: Ints, offset: Ints, depth: int, at: Ints) -> Ints:
    """The token `depth` places before each position of `at`, NOTHING before the window's start."""
    return np.where(offset[at] >= depth, flat[np.maximum(at - depth, 0)], NOTHING)


def learn(contexts: Sequence[Context], max_activation: float) -> Rule:
    """A rule from the contexts of the explain split, each window counted once. Needs at least one token.

    Silent windows weigh as much as all activating ones together, and bands weigh alike, as in the score `r_balanced`.
    """
    data = _Data.of(contexts, max_activation)
    tree = _grow(data)
    kept = _prune(tree, data.total)
    return _patterns(data, tree, kept)


@dataclass(frozen=True, slots=True)
class _Data:
    """All positions of the windows. `weight` averages 1; `target` is the activation on the scale 0..10."""

    flat: Ints
    offset: Ints
    window: Ints
    n_windows: int
    weight: Floats
    target: Floats
    total: float

    @staticmethod
    def of(contexts: Sequence[Context], max_activation: float) -> "_Data":
        windows = list({context.window_id: context for context in contexts}.values())
        lengths = np.array([len(context.tokens) for context in windows])
        bands = np.array([context.band for context in windows])
        present, sizes = np.unique(bands, return_counts=True)
        active = int((present > 0).sum())
        share = {int(b): (1.0 if b == 0 else 1.0 / active) / n for b, n in zip(present, sizes, strict=True)}
        weight = np.repeat([share[int(band)] for band in bands], lengths)
        scale = LEVELS / max_activation if max_activation > 0 else 0.0
        target = np.concatenate([context.activations for context in windows]).astype(np.float64) * scale
        weight = weight / weight.mean()
        mean = float(weight @ target) / len(target)
        return _Data(
            flat=np.concatenate([context.tokens for context in windows]).astype(np.int64),
            offset=np.concatenate([np.arange(n) for n in lengths]),
            window=np.repeat(np.arange(len(windows)), lengths),
            n_windows=len(windows),
            weight=weight,
            target=target,
            total=float(weight @ (target - mean) ** 2),
        )


@dataclass(slots=True)
class _Tree:
    """Nodes in the order of their depth; node 0 is the root, the empty run. `sum_w`, `sum_wy` over the node's positions."""

    parent: Ints
    level: Ints
    token: Ints
    value: Floats
    sum_w: Floats
    sum_wy: Floats


def _grow(data: _Data) -> _Tree:
    """Every run of up to DEPTH tokens that extends a run with some activation, seen in several windows."""
    weighted = data.weight * data.target
    root_w, root_wy = data.weight.sum(), weighted.sum()
    none = np.zeros(1, np.int64)
    levels = [(none - 1, none, none, np.array([root_wy / root_w]), np.array([root_w]), np.array([root_wy]))]
    at, node, first = np.arange(len(data.flat)), np.zeros(len(data.flat), np.int64), 0
    for depth in range(DEPTH):
        back = _back(data.flat, data.offset, depth, at)
        known, code = np.unique(back, return_inverse=True)
        runs, run = np.unique((node - first) * len(known) + code, return_inverse=True)
        sum_w = np.bincount(run, data.weight[at])
        sum_wy = np.bincount(run, weighted[at])
        parent = runs // len(known) + first
        above = levels[-1][3][parent - first]
        value = (sum_wy + SHRINKAGE * above) / (sum_w + SHRINKAGE)
        in_windows = np.bincount(
            np.unique(run * data.n_windows + data.window[at]) // data.n_windows, minlength=len(runs)
        )
        token = known[runs % len(known)]
        levels.append((parent, np.full(len(runs), depth + 1), token, value, sum_w, sum_wy))
        goes_on = ((sum_wy > 0) & (in_windows >= MIN_WINDOWS) & (token != NOTHING))[run]
        first += len(levels[-2][0])
        at, node = at[goes_on], run[goes_on] + first
        if len(at) == 0:
            break
    return _Tree(*(np.concatenate(column) for column in zip(*levels, strict=True)))


def _prune(tree: _Tree, total: float) -> NDArray[np.bool_]:
    """Which nodes stay: those whose subtree lowers the squared error by more than MIN_GAIN of the total."""
    parent = np.maximum(tree.parent, 0)
    above = tree.value[parent]
    gain = 2 * tree.sum_wy * (tree.value - above) - tree.sum_w * (tree.value**2 - above**2)
    # A longer run is less shrunk than a shorter one that says the same: that alone must not keep it.
    mean = tree.sum_wy / tree.sum_w
    gain = np.minimum(gain, tree.sum_w * (mean - mean[parent]) ** 2)
    gain[0] = 0.0
    kept = np.ones(len(gain), np.bool_)
    for level in range(int(tree.level.max()), 0, -1):
        nodes = np.flatnonzero(tree.level == level)
        pays = gain[nodes] > MIN_GAIN * total
        kept[nodes] = pays
        np.add.at(gain, tree.parent[nodes[pays]], gain[nodes[pays]])
    for level in range(2, int(tree.level.max()) + 1):
        nodes = np.flatnonzero(tree.level == level)
        kept[nodes] &= kept[tree.parent[nodes]]
    return kept


def _patterns(data: _Data, tree: _Tree, kept: NDArray[np.bool_]) -> Rule:
    """The kept nodes as patterns: siblings without longer runs and of like value merged, the weakest left out."""
    nodes = np.flatnonzero(kept)
    inner = set(tree.parent[nodes[1:]].tolist())
    # A node with longer runs speaks for what is left of it: the positions that none of them takes.
    rest_w, rest_wy = tree.sum_w.copy(), tree.sum_wy.copy()
    np.subtract.at(rest_w, tree.parent[nodes[1:]], tree.sum_w[nodes[1:]])
    np.subtract.at(rest_wy, tree.parent[nodes[1:]], tree.sum_wy[nodes[1:]])
    rest = np.where(rest_w > 1e-9, rest_wy / np.maximum(rest_w, 1e-9), tree.value)
    rest = np.where(rest_w > 1e-9, (rest_wy + SHRINKAGE * tree.value) / (rest_w + SHRINKAGE), rest)
    rest[0] = rest_wy[0] / rest_w[0] if rest_w[0] > 1e-9 else 0.0
    groups: dict[tuple[int, int], list[int]] = {}
    for node in nodes[1:].tolist():
        level = -1 - node if node in inner else round(float(tree.value[node]) / SAME)
        groups.setdefault((int(tree.parent[node]), level), []).append(node)
    chosen = _strongest(tree, rest, groups, inner)
    place: dict[int, int] = {0: -1}
    patterns: list[Pattern] = []
    activation = float(tree.sum_wy[0])
    for parent, members in chosen:
        members.sort(key=lambda node: (-tree.sum_wy[node], tree.token[node]))
        is_inner = members[0] in inner and any(other == members[0] for other, _ in chosen)
        weight = float(tree.sum_w[members].sum())
        value = float(rest[members[0]]) if is_inner else float(tree.sum_w[members] @ tree.value[members] / weight)
        mass = float(rest_wy[members[0]]) if is_inner else float(tree.sum_wy[members].sum())
        place[members[0]] = len(patterns)
        patterns.append(Pattern(place[parent], int(tree.level[members[0]]) - 1, tuple(int(t) for t in tree.token[members]),
                                value, mass / activation if activation > 0 else 0.0))  # fmt: skip
    rule = Rule(max(float(rest[0]), 0.0), tuple(patterns), 0.0)
    return Rule(rule.background, rule.patterns, _explained(rule, data))


def _strongest(
    tree: _Tree, rest: Floats, groups: dict[tuple[int, int], list[int]], inner: set[int]
) -> list[tuple[int, list[int]]]:
    """At most MAX_PATTERNS groups (parent node, member nodes), by what they gain over their parent, parents first."""

    def gain(parent: int, members: list[int]) -> float:
        w, wy = float(tree.sum_w[members].sum()), float(tree.sum_wy[members].sum())
        value, above = wy / w, float(rest[parent])
        return 2 * wy * (value - above) - w * (value**2 - above**2)

    own = {key: gain(key[0], members) for key, members in groups.items()}
    # A pattern that others hang on is worth at least what they are.
    for (parent, level), members in sorted(groups.items(), key=lambda item: -tree.level[item[1][0]]):
        if members[0] in inner:
            below = [own[key] for key in groups if key[0] == members[0]]
            own[parent, level] = max(own[parent, level], *below)
    ranked = sorted(groups, key=lambda key: (-own[key], tree.level[groups[key][0]], groups[key][0]))[:MAX_PATTERNS]
    taken: list[tuple[int, list[int]]] = []
    present = {0}
    for key in sorted(ranked, key=lambda key: (tree.level[groups[key][0]], groups[key][0])):
        if key[0] in present:
            taken.append((key[0], groups[key]))
            present.update(groups[key][:1] if groups[key][0] in inner else [])
    return taken


def _explained(rule: Rule, data: _Data) -> float:
    if data.total <= 0:
        return 0.0
    starts = np.flatnonzero(data.offset == 0)
    windows = np.split(data.flat.astype(np.int32), starts[1:])
    error = data.target - np.concatenate(predict(rule, windows))
    return max(0.0, 1.0 - float(data.weight @ error**2) / data.total)
