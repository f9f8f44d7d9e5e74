"""What the stage `sample` recorded about the whole run: model, SAE, corpus, conformance.

Pure functions of a connection, like `pages`. The facts are JSON that a stage wrote; any of them may be absent.
"""

import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, slots=True)
class Conformance:
    """How the SAE behaved before the harvest: mean active features a token, the share of variance unexplained.

    `problem` says what the conformance gate found grossly wrong, if it did. The loss recovered is there where it was asked
    for: relative to zero- and to mean-ablation, with the cross-entropies it is made from, or with why it has no value.
    """

    l0: float | None = None
    l0_expected: float | None = None
    fvu: float | None = None
    tokens: int | None = None
    problem: str | None = None
    loss_recovered: float | None = None
    loss_recovered_mean: float | None = None
    loss_plain: float | None = None
    loss_sae: float | None = None
    loss_reason: str | None = None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What was sampled, as the stage `sample` recorded it. Any fact may be absent."""

    subject: str | None = None
    sae: str | None = None
    sae_format: str | None = None
    hookpoint: str | None = None
    corpus: str | None = None
    tokens: int | None = None
    windows: int | None = None
    documents: int | None = None
    features: int | None = None
    window: int | None = None
    seed: int | None = None
    version: str | None = None
    conformance: Conformance = Conformance()


def run_facts(connection: "duckdb.DuckDBPyConnection") -> RunFacts:
    """What the stage `sample` says of model, SAE and corpus. A fact of the wrong type counts as absent."""
    known, version = _stage(connection, "sample")
    conformance = known.get("conformance")
    gate = conformance if isinstance(conformance, dict) else {}
    texts = {name: _text(known.get(name)) for name in ("subject", "sae", "sae_format", "hookpoint", "corpus")}
    counted = ("tokens", "windows", "documents", "features", "window", "seed")
    numbers = {name: _whole(known.get(name)) for name in counted}
    measured: dict[str, Any] = {name: _number(gate.get(name)) for name in ("l0", "l0_expected", "fvu")}
    fitted = Conformance(
        **measured, tokens=_whole(gate.get("tokens")), problem=_text(gate.get("problem")), **_loss_facts(gate)
    )
    return replace(RunFacts(version=version, conformance=fitted, **texts), **numbers)  # type: ignore[arg-type]


def _loss_facts(gate: dict[str, Any]) -> dict[str, Any]:
    known = gate.get("loss")
    loss = known if isinstance(known, dict) else {}
    names = {
        "loss_recovered": "recovered",
        "loss_recovered_mean": "recovered_mean",
        "loss_plain": "plain",
        "loss_sae": "sae",
    }
    return {ours: _number(loss.get(theirs)) for ours, theirs in names.items()} | {
        "loss_reason": _text(loss.get("reason"))
    }


def _stage(connection: "duckdb.DuckDBPyConnection", stage: str) -> tuple[dict[str, Any], str | None]:
    """The stage's configuration overlaid by its facts, and the version that wrote them; the last row written wins."""
    query = "SELECT config, facts, version FROM stages WHERE stage = ? ORDER BY rowid DESC LIMIT 1"
    with connection.cursor() as cursor:
        row = cursor.execute(query, [stage]).fetchone()
    if row is None:
        return {}, None
    return _object(row[0]) | _object(row[1]), row[2]


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: object) -> float | None:
    """A finite number or None; JSON's true and false are not numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _whole(value: object) -> int | None:
    number = _number(value)
    return None if number is None else int(number)
