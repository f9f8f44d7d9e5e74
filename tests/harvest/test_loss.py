"""Loss recovered against plain loops: one window at a time, no padding, hooks written by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autointerp.harvest.forward import Reader
from autointerp.harvest.loss import LossRecovered, _result, measure_loss_recovered
from autointerp.sae import load_sae
from autointerp.sae.canonical import SAE
from autointerp.subject.hookpoints import Hookpoint
from autointerp.subject.model import Subject, load_subject
from autointerp.subject.windows import Windows, cut_document, join

torch.set_num_threads(1)
OUT = Hookpoint("model.layers.1", "out")
MLP_IN, MLP_OUT = Hookpoint("model.layers.1.mlp", "in"), Hookpoint("model.layers.1.mlp", "out")


@pytest.fixture(scope="module")
def subject(tiny_model: Path) -> Subject:
    return load_subject(str(tiny_model), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def sae(tiny_sae: Path) -> SAE:
    return load_sae(tiny_sae)


@pytest.fixture(scope="module")
def windows() -> Windows:
    """Ragged: 12 windows of 1 to 23 tokens."""
    draw = np.random.default_rng(0)
    return join(
        [cut_document(i, f"d{i}", draw.integers(1, 300, n).tolist(), 23, 0) for i, n in enumerate((1, 60, 23, 40, 99))]
    )


def by_hand(
    subject: Subject, windows: Windows, bos: bool, module: str, edit: Callable[[Tensor, Tensor], Tensor]
) -> float:
    """Mean cross-entropy when edit(what went in, what came out) takes the place of what came out, but at BOS."""
    total, count = 0.0, 0

    def hook(_module: Any, args: tuple[Any, ...], output: Any) -> Any:
        assert isinstance(output, Tensor)
        new = edit(args[0][0, int(bos) :], output[0, int(bos) :])
        return torch.cat([output[:, : int(bos)], new[None]], 1)

    for begin, end in zip(windows.offsets[:-1], windows.offsets[1:], strict=True):
        ids = torch.tensor([[0] * bos + windows.tokens[begin:end].tolist()])
        handle = subject.model.get_submodule(module).register_forward_hook(hook)
        with torch.inference_mode():
            log_p = subject.model(input_ids=ids).logits[0].log_softmax(-1)
        handle.remove()
        for position in range(1, ids.shape[1]):
            total -= float(log_p[position - 1, ids[0, position]])
            count += 1
    return total / count


@pytest.mark.parametrize("bos", [True, False])
def test_equals_plain_loops(subject: Subject, sae: SAE, windows: Windows, bos: bool) -> None:
    found = measure_loss_recovered(Reader(subject, sae, OUT, prepend_bos=bos), windows)
    states: list[Tensor] = []
    layer = "model.layers.1"
    plain = by_hand(subject, windows, bos, layer, lambda _, x: states.append(x) or x)
    mean = torch.cat(states).mean(0)
    assert found.tokens == len(windows.tokens) - (0 if bos else len(windows))
    assert found.plain == pytest.approx(plain, rel=1e-5)
    assert found.sae == pytest.approx(
        by_hand(subject, windows, bos, layer, lambda _, x: sae.decode(sae.encode(x))), rel=1e-5
    )
    assert found.zero == pytest.approx(by_hand(subject, windows, bos, layer, lambda _, x: 0 * x), rel=1e-5)
    assert found.mean == pytest.approx(by_hand(subject, windows, bos, layer, lambda _, x: mean.expand_as(x)), rel=1e-5)
    assert len({round(one or 0, 4) for one in (found.plain, found.sae, found.zero, found.mean)}) == 4
    assert found.site == str(OUT)


def test_a_transcoder_replaces_the_output_that_it_predicts(subject: Subject, windows: Windows) -> None:
    draw = torch.Generator().manual_seed(2)
    transcoder = SAE(
        activation="topk", encoder=torch.randn(24, 16, generator=draw), b_enc=torch.zeros(24), k=3, transcoder=True,
        decoder=torch.randn(24, 16, generator=draw), b_dec=torch.randn(16, generator=draw), hook_out="blocks.1.hook_mlp_out",
        skip=torch.randn(16, 16, generator=draw),
    )  # fmt: skip
    found = measure_loss_recovered(Reader(subject, transcoder, MLP_IN, prepend_bos=True), windows)
    expected = by_hand(
        subject, windows, True, MLP_OUT.module, lambda given, _: transcoder.decode(transcoder.encode(given), given)
    )
    assert found.sae == pytest.approx(expected, rel=1e-5) and found.sae != pytest.approx(found.plain or 0, rel=1e-3)
    assert found.zero == pytest.approx(by_hand(subject, windows, True, MLP_OUT.module, lambda _, x: 0 * x), rel=1e-5)
    assert found.site == str(MLP_OUT)


@pytest.mark.parametrize(
    ("changed", "hookpoint", "words"),
    [
        ({"hook_out": None}, MLP_IN, "do not say which hidden state"),
        ({"hook_out": "layers.1.mlp.gate_proj"}, MLP_IN, "gives 16 numbers, and model.layers.1.mlp.gate_proj:out"),
        ({"hook_out": "layers.77"}, MLP_IN, "no module"),
        ({"hook_out": "layers.0"}, MLP_IN, "after model.layers.0:out"),
    ],
)
def test_what_cannot_be_measured_has_a_reason(
    subject: Subject, windows: Windows, changed: dict[str, Any], hookpoint: Hookpoint, words: str
) -> None:
    plain = {"activation": "relu", "encoder": torch.eye(16), "b_enc": torch.zeros(16), "decoder": torch.eye(16)}
    transcoder = SAE(**plain, b_dec=torch.zeros(16), transcoder=True, **changed)
    found = measure_loss_recovered(Reader(subject, transcoder, hookpoint, prepend_bos=True), windows)
    assert (found.recovered, found.plain, found.sae) == (None, None, None)
    assert words in (found.reason or "") and "undefined" in found.describe()


def test_an_exact_dictionary_changes_nothing_and_an_empty_one_is_zeros(subject: Subject, windows: Windows) -> None:
    """relu(x) − relu(−x) = x: a dictionary of ± the axes is exact; with its features shut off it gives zeros."""
    both = torch.cat([torch.eye(16), -torch.eye(16)])
    exact = SAE(activation="relu", encoder=both, b_enc=torch.zeros(32), decoder=both, b_dec=torch.zeros(16))
    found = measure_loss_recovered(Reader(subject, exact, OUT, prepend_bos=True), windows)
    assert found.sae == found.plain
    empty = replace(exact, b_enc=torch.full((32,), -1e9))
    found = measure_loss_recovered(Reader(subject, empty, OUT, prepend_bos=True), windows)
    assert found.sae == found.zero and found.sae != found.plain


def test_ratios_by_hand() -> None:
    found = _result(2.0, {"sae": 2.5, "zero": 4.0, "mean": 3.0}, 10, "somewhere")
    assert (found.recovered, found.recovered_mean, found.reason) == (0.75, 0.5, None)
    assert (
        "loss recovered 75.0% (50.0% against the mean state): 2.000 nats a token, 2.500 with the SAE"
        in found.describe()
    )
    helped = _result(2.0, {"sae": 2.5, "zero": 2.0, "mean": 3.0}, 10, "somewhere")
    assert (helped.recovered, helped.recovered_mean) == (None, 0.5)
    assert helped.reason == "the model predicts no worse with zeros in the hidden state's place"
    assert helped.reason in helped.describe() and helped.plain == 2.0
    broken = _result(2.0, {"sae": float("nan"), "zero": 4.0, "mean": 3.0}, 10, "somewhere")
    assert broken == LossRecovered(tokens=10, site="somewhere", reason="a cross-entropy is not finite")


def test_how_many_tokens(subject: Subject, sae: SAE, windows: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(subject, sae, OUT, prepend_bos=True)
    whole = measure_loss_recovered(reader, windows)
    monkeypatch.setattr("autointerp.harvest.loss._LOGITS", 1)  # one window a pass: the same figures
    alone = measure_loss_recovered(reader, windows)
    assert (alone.plain, alone.sae) == (pytest.approx(whole.plain, rel=1e-5), pytest.approx(whole.sae, rel=1e-5))
    assert measure_loss_recovered(reader, windows, max_tokens=30).tokens == 1 + 23 + 23
    single = join([cut_document(0, "a", [5], 23, 0)])
    found = measure_loss_recovered(Reader(subject, sae, OUT, prepend_bos=False), single)
    assert found.tokens == 0 and "no token has another before it" in (found.reason or "")
