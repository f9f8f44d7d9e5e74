"""The conformance gate: does this SAE, as we read it, fit this model at this hookpoint?

About 20 thousand tokens are encoded and decoded before a harvest. Two figures catch nearly every mistake of bias, scale,
hookpoint, normalisation or transposition: the mean number of active features per token (L0), against the SAE's own k or l0
where it is known, and the fraction of the hidden state's variance that the reconstruction leaves unexplained (FVU).
On request the loss recovered as well (`loss.py`), which costs four full forward passes.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from autointerp.errors import UserError
from autointerp.files import write_text
from autointerp.harvest.forward import Reader
from autointerp.harvest.loss import LossRecovered, measure_loss_recovered
from autointerp.harvest.plan import Plan
from autointerp.subject.windows import Windows, join

L0_RANGE = (0.5, 1.5)  # × the expected L0 (sae-formats.md, Rules)
FVU_LIMIT = 1.0  # worse than predicting the mean: certainly wrong
_DAMAGED = (OSError, ValueError, TypeError, KeyError, RecursionError)  # what reading a file may end in that is not ours
SINK = 10.0  # × the median length of a hidden state: far out of what SAEs are trained on
FVU_POOR = 0.5  # published SAEs leave 0.05 to 0.4 unexplained: worth a warning


@dataclass(frozen=True, slots=True)
class Conformance:
    """Measured figures. `problem` says in one sentence what is grossly wrong, or is None. `fvu` None for transcoders.

    `loss` is None where it was not asked for. `norm_median` and `norm_max` are of the hidden states' lengths.
    """

    l0: float
    l0_expected: float | None
    fvu: float | None
    tokens: int
    problem: str | None
    loss: LossRecovered | None = None
    norm_median: float | None = None
    norm_max: float | None = None


def measure_conformance(
    reader: Reader, windows: Windows, *, max_tokens: int = 20_000, batch_windows: int = 16
) -> Conformance:
    """L0 and FVU over the first windows. FVU = Σ|x − x̂|² / Σ|x − mean x|², in float64."""
    sae = reader.sae
    seen = active = 0
    residual = 0.0
    total = torch.zeros(sae.d_in, dtype=torch.float64)
    squares = torch.zeros(sae.d_in, dtype=torch.float64)
    norms = []
    is_transcoder = sae.transcoder
    for begin in range(0, len(windows), batch_windows):
        hidden = reader.hidden(windows, begin, min(begin + batch_windows, len(windows))).hidden
        found = sae.encode_sparse(hidden)
        active += len(found.value)
        x = hidden.double().cpu()
        total += x.sum(0)
        squares += x.square().sum(0)
        norms.append(x.norm(dim=1))
        if not is_transcoder:
            residual += float((x - sae.decode_sparse(found, len(hidden), hidden).double().cpu()).square().sum())
        seen += len(hidden)
        if seen >= max_tokens:
            break
    seen = max(seen, 1)
    variance = float((squares - total.square() / seen).sum())
    l0 = active / seen
    fvu = None if is_transcoder or variance <= 0 else residual / variance
    expected = None if sae.l0_expected is None else float(sae.l0_expected)
    lengths = torch.cat(norms) if norms else torch.zeros(1)
    median, longest = (float(lengths.median()), float(lengths.max())) if len(lengths) else (None, None)
    return Conformance(l0, expected, fvu, seen, _problem(l0, expected, fvu), norm_median=median, norm_max=longest)


def first_windows(plan: Plan, tokens: int = 22_000) -> Windows:
    """The first windows of the corpus: of as many parts as it takes."""
    parts: list[Windows] = []
    while len(parts) < plan.n_parts and sum(len(part.tokens) for part in parts) < tokens:
        parts.append(plan.part(len(parts)))
    return join(parts)


def _problem(l0: float, expected: float | None, fvu: float | None) -> str | None:
    if l0 == 0:
        return "no feature fires on any of the tokens that were read"
    if expected is not None and not L0_RANGE[0] <= l0 / expected <= L0_RANGE[1]:
        return f"{l0:.1f} features fire per token, but the SAE's own configuration says {expected:.1f}"
    if fvu is not None and not fvu <= FVU_LIMIT:  # NaN, too
        return f"the reconstruction leaves {fvu:.2f} of the variance unexplained: worse than the mean alone"
    return None


def gate(
    readers: Sequence[Reader], plan: Plan, folder: Path, fingerprint: str, *, allow: bool, loss: bool = False
) -> list[Conformance]:
    """`check_conformance` for every reader; what was measured is kept in `folder`, so that it is done once for a harvest."""
    path = folder / "conformance.json"
    with suppress(*_DAMAGED):  # none, or a damaged one: measured anew
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["fingerprint"] == fingerprint:
            check_type(readers[0], folder)
            kept = [_from_facts(facts) for facts in saved["found"]]
            if allow or not any(one.problem for one in kept):
                return kept
    found = [check_conformance(reader, plan, allow=allow, loss=loss) for reader in readers]
    facts = {"fingerprint": fingerprint, "dtype": readers[0].subject.dtype, "found": [asdict(one) for one in found]}
    write_text(path, json.dumps(facts))
    return found


def gate_fingerprint(folder: Path) -> str | None:
    """Of the harvest whose gate was passed last, or None."""
    try:
        return str(json.loads((folder / "conformance.json").read_text(encoding="utf-8"))["fingerprint"])
    except _DAMAGED:
        return None


def check_type(reader: Reader, folder: Path) -> None:
    """The model must run in one type in all processes of a harvest: with "auto" it depends on the machine. Raises UserError."""
    try:
        first = str(json.loads((folder / "conformance.json").read_text(encoding="utf-8"))["dtype"])
    except _DAMAGED:  # none, or a damaged one: the gate makes it anew
        return
    if first != reader.subject.dtype:
        raise UserError(f"this harvest was begun with the model in {first}, and here it would run in {reader.subject.dtype}; "
                        f"give --dtype {first}")  # fmt: skip


def _from_facts(facts: dict[str, Any]) -> Conformance:
    loss = facts.get("loss")
    return Conformance(**facts | {"loss": loss and LossRecovered(**loss)})


def check_conformance(reader: Reader, plan: Plan, *, allow: bool, loss: bool = False) -> Conformance:
    """Measure on the corpus' first windows, print, and stop on a gross mismatch unless `allow`. `loss`: loss recovered, too."""
    import click

    windows = first_windows(plan)
    found = measure_conformance(reader, windows)
    if loss and (allow or not found.problem):
        found = replace(found, loss=measure_loss_recovered(reader, windows))
    click.echo(f"conformance: {describe(found)}", err=True)
    if found.fvu is not None and FVU_POOR < found.fvu <= FVU_LIMIT:
        click.echo(
            "warning: most of the variance is unexplained; is this the right hookpoint and model for the SAE?", err=True
        )
    if found.norm_median and found.norm_max and found.norm_max > SINK * found.norm_median:
        click.echo(f"note: some hidden states are far longer than most (up to {found.norm_max:.3g}, the median is "
                   f"{found.norm_median:.3g}): attention sinks; to leave them out: --set sample.max_norm="
                   f"{SINK * found.norm_median:.2g}", err=True)  # fmt: skip
    if found.problem and not allow:
        raise UserError(f"the SAE does not seem to fit {reader.subject.name} at {reader.hookpoint}: {found.problem}; check "
                        "--hookpoint, --sae and --model, or go on with --set sample.allow_mismatch=true")  # fmt: skip
    return found


def describe(found: Conformance) -> str:
    """One line for people."""
    expected = "" if found.l0_expected is None else f" (expected {found.l0_expected:.1f})"
    fvu = "not defined here" if found.fvu is None else f"{found.fvu:.3f}"
    recovered = "" if found.loss is None else f"; {found.loss.describe()}"
    norms = (
        ""
        if found.norm_median is None
        else f", hidden states {found.norm_median:.3g} long (at most {found.norm_max:.3g})"
    )
    return f"L0 {found.l0:.1f}{expected}, FVU {fvu}{norms}, over {found.tokens:,} tokens{recovered}"
