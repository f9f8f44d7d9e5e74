"""The canonical arithmetic, against numbers worked by hand and against formulas written out plainly."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from autointerp.errors import UserError
from autointerp.sae import SAE
from autointerp.sae.fold import fold_decode_scale, fold_decoder_norm, fold_scales

Draw = Callable[..., Tensor]

# d_in 2, d_sae 4. W_enc columns: (1,0), (0,1), (1,1), (-1,0).
ENCODER = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]])
DECODER = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [0.0, 0.0]])


def build(activation: str, **options: object) -> SAE:
    values: dict[str, object] = {"b_enc": torch.tensor([0.0, -1.0, 0.0, 0.5]), "b_dec": torch.tensor([0.5, 0.0])}
    return SAE(activation=activation, encoder=ENCODER, decoder=DECODER, **(values | options))  # type: ignore[arg-type]


X = torch.tensor([[1.5, 2.0]])
# With b_dec subtracted u = (1, 2), so p = (1, 2 - 1, 1 + 2, -1 + 0.5) = (1, 1, 3, -0.5); without it u = (1.5, 2) and
# p = (1.5, 1, 3.5, -1).


def test_relu() -> None:
    assert build("relu", subtract_b_dec=True).encode(X).tolist() == [[1.0, 1.0, 3.0, 0.0]]
    assert build("relu").encode(X).tolist() == [[1.5, 1.0, 3.5, 0.0]]


def test_tanh_relu() -> None:
    # tanh(1) = 0.76159, tanh(3) = 0.99505
    found = build("tanh-relu", subtract_b_dec=True).encode(X)
    assert torch.allclose(found, torch.tensor([[0.76159, 0.76159, 0.99505, 0.0]]), atol=1e-5)


def test_jumprelu_is_strict_and_below_zero_means_relu() -> None:
    # p = (1, 1, 3, -0.5): the threshold 1 is not exceeded by 1; a threshold of -1 lets no negative p through.
    threshold = torch.tensor([1.0, 0.9, 0.0, -1.0])
    sae = build("jumprelu", subtract_b_dec=True, threshold=threshold)
    assert sae.encode(X).tolist() == [[0.0, 1.0, 3.0, 0.0]]
    assert list(sae.encode_sparse(X).feature) == [1, 2]


def test_topk_ties_go_to_the_lower_index() -> None:
    # p = (1, 1, 3, -0.5): the second place is shared by features 0 and 1.
    sae = build("topk", subtract_b_dec=True, k=2)
    assert sae.encode(X).tolist() == [[1.0, 0.0, 3.0, 0.0]]
    assert list(sae.encode_sparse(X).feature) == [0, 2]


def test_topk_applies_relu_to_what_it_keeps() -> None:
    assert build("topk", subtract_b_dec=True, k=4).encode(X).tolist() == [[1.0, 1.0, 3.0, 0.0]]


def test_abstopk_keeps_the_sign() -> None:
    # p = (1.5, 1, 3.5, -1); of -X: u = (-1.5, -2), p = (-1.5, -3, -3.5, 2).
    sae = build("abstopk", k=2)
    assert sae.encode(X).tolist() == [[1.5, 0.0, 3.5, 0.0]]
    assert sae.encode(-X).tolist() == [[0.0, -3.0, -3.5, 0.0]]


def test_groupmax_keeps_one_of_each_group() -> None:
    # relu(p) = (1, 1 | 3, 0) in k = 2 groups of 2: the maxima are feature 0 (a tie) and feature 2.
    assert build("groupmax", subtract_b_dec=True, k=2).encode(X).tolist() == [[1.0, 0.0, 3.0, 0.0]]


def test_gated() -> None:
    # π = (1, 2, 3, -1); π + b_gate = (1, 1, 3, -0.5) opens 0, 1 and 2. exp(r_mag) = (1, 2, 1, 1).
    # magnitudes: 1 + 0.5 = 1.5; 2·2 - 4 = 0; 3 - 5 < 0 → 0.
    r_mag = torch.tensor([0.0, 2.0, 1.0, 1.0]).clamp(min=1).log()
    b_mag = torch.tensor([0.5, -4.0, -5.0, 9.0])
    sae = build("gated", subtract_b_dec=True, r_mag=r_mag, b_mag=b_mag)
    assert torch.allclose(sae.encode(X), torch.tensor([[1.5, 0.0, 0.0, 0.0]]), atol=1e-6)


def test_decode() -> None:
    # f = (1, 1, 3, 0): x̂ = (1 + 3, 2 + 3) + (0.5, 0)
    sae = build("relu")
    assert sae.decode(torch.tensor([[1.0, 1.0, 3.0, 0.0]])).tolist() == [[4.5, 5.0]]


def test_skip_connection_is_added_to_the_decode_only() -> None:
    skip = torch.tensor([[1.0, 10.0], [100.0, 1000.0]])
    sae, plain = build("relu", skip=skip, transcoder=True), build("relu")
    assert torch.equal(sae.encode(X), plain.encode(X))
    # x · skip = (1.5 + 200, 15 + 2000)
    assert sae.decode(torch.zeros(1, 4), X).tolist() == [[202.0, 2015.0]]
    with pytest.raises(ValueError, match="pass x"):
        sae.decode(torch.zeros(1, 4))


def test_layer_norm_is_unbiased_with_epsilon_on_the_deviation(draw: Draw) -> None:
    x = draw(5, 2) * 3 + 7
    sae = build("relu", input_norm="layer_norm")
    mean = x.mean(1, keepdim=True)
    deviation = ((x - mean).square().sum(1, keepdim=True) / (2 - 1)).sqrt()
    u = (x - mean) / (deviation + 1e-5)
    assert torch.allclose(sae.encode(x), build("relu").encode(u), atol=1e-5)
    f = sae.encode(x)
    assert torch.allclose(sae.decode(f, x), build("relu").decode(f) * deviation + mean, atol=1e-5)


def test_constant_norm_rescale(draw: Draw) -> None:
    x = draw(5, 2)
    sae = build("relu", input_norm="constant_norm_rescale")
    factor = 2**0.5 / x.norm(dim=1, keepdim=True)
    assert torch.allclose(sae.encode(x), build("relu").encode(x * factor), atol=1e-6)
    assert torch.allclose(sae.decode(torch.zeros(5, 4), x), torch.tensor([0.5, 0.0]) / factor, atol=1e-6)
    assert torch.isfinite(sae.encode(torch.zeros(1, 2))).all()


def test_a_transcoder_does_not_undo_its_input_norm() -> None:
    sae = build("relu", input_norm="layer_norm", transcoder=True)
    assert sae.decode(torch.zeros(1, 4)).tolist() == [[0.5, 0.0]]


def test_centred_inputs(draw: Draw) -> None:
    x = draw(5, 2)
    centred = x - x.mean(1, keepdim=True)
    sae = build("relu", center_input=True)
    assert torch.allclose(sae.encode(x), build("relu").encode(centred))
    f = sae.encode(x)
    assert torch.allclose(sae.decode(f, x), build("relu").decode(f) + x.mean(1, keepdim=True))


def test_inputs_of_any_dtype_are_encoded_in_float32(draw: Draw) -> None:
    x = draw(5, 2).bfloat16()
    found = build("relu").encode(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, build("relu").encode(x.float()))


def test_activations_that_are_not_finite_are_refused() -> None:
    bad = torch.tensor([[1.0, 2.0], [float("nan"), 0.0], [float("inf"), 1.0]])
    for encode in (build("relu").encode, build("topk", k=1).encode_sparse):
        with pytest.raises(UserError, match="2 of 3 rows"):
            encode(bad)  # type: ignore[operator]


def test_shapes_and_kinds_are_checked() -> None:
    with pytest.raises(ValueError, match="threshold"):
        build("jumprelu")
    with pytest.raises(ValueError, match="needs k"):
        build("topk")
    with pytest.raises(ValueError, match="k is 5"):
        build("topk", k=5)
    with pytest.raises(ValueError, match="multiple of k"):
        build("groupmax", k=3)
    with pytest.raises(ValueError, match=r"b_dec .*expected float32 \[2\]|decoder .*expected"):
        build("relu", b_dec=torch.zeros(3))
    with pytest.raises(ValueError, match=r"expected \[N, 2\]"):
        build("relu").encode(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="activation is 'swish'"):
        build("swish")


# --- folding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "topk", "jumprelu"])
def test_fold_decoder_norm(activation: str, draw: Draw) -> None:
    """Against the run-time rule: p ← p · n before the activation, f / n before the decode."""
    d, width, norm_of = 6, 20, lambda decoder: decoder.norm(dim=1)
    encoder, decoder, b_enc, b_dec = draw(width, d), draw(width, d) * 3, draw(width), draw(d)
    options = {"topk": {"k": 4}, "jumprelu": {"threshold": torch.full((width,), 2.0)}}.get(activation, {})
    sae = SAE(
        activation=activation,
        encoder=encoder,
        decoder=decoder,
        b_enc=b_enc,
        b_dec=b_dec,
        subtract_b_dec=True,
        **options,
    )  # type: ignore[arg-type]
    x = draw(9, d)
    scaled = ((x - b_dec) @ encoder.T + b_enc) * norm_of(decoder)
    if activation == "topk":
        values, index = scaled.topk(4)
        expected = torch.zeros_like(scaled).scatter(1, index, values.relu())
    else:
        expected = scaled.relu() * (scaled > (2.0 if activation == "jumprelu" else 0.0))
    folded = fold_decoder_norm(sae, threshold_folded=True)
    assert torch.allclose(folded.encode(x), expected, atol=1e-4)
    assert torch.allclose(folded.decode(expected), (expected / norm_of(decoder)) @ decoder + b_dec, atol=1e-4)


def test_fold_decoder_norm_scales_an_ordinary_threshold(draw: Draw) -> None:
    width, d = 8, 4
    decoder, threshold = draw(width, d), draw(width).abs()
    sae = SAE(
        activation="jumprelu", encoder=draw(width, d), decoder=decoder, b_enc=draw(width), b_dec=draw(d),
        threshold=threshold,
    )  # fmt: skip
    x = draw(50, d)
    # The same features fire, n times as strongly.
    folded = fold_decoder_norm(sae, threshold_folded=False)
    assert torch.allclose(folded.encode(x), sae.encode(x) * decoder.norm(dim=1), atol=1e-4)


def test_fold_scales(draw: Draw) -> None:
    """f = encode(x · s) and x̂ = decode(f) / s, for an SAE that subtracts b_dec and has a threshold."""
    width, d, s = 8, 4, 3.5
    sae = SAE(
        activation="jumprelu", encoder=draw(width, d), decoder=draw(width, d), b_enc=draw(width), b_dec=draw(d),
        threshold=draw(width).abs(), subtract_b_dec=True,
    )  # fmt: skip
    x = draw(50, d)
    folded = fold_scales(sae, s)
    assert torch.allclose(folded.encode(x), sae.encode(x * s), atol=1e-4)
    f = sae.encode(x * s)
    assert torch.allclose(folded.decode(f), sae.decode(f) / s, atol=1e-4)
    assert torch.allclose(fold_scales(sae, s, 2.0).decode(f), sae.decode(f) / 2.0, atol=1e-4)


def test_fold_decode_scale(draw: Draw) -> None:
    sae, scale = build("relu"), torch.tensor([1.0, 2.0, 3.0, 4.0])
    f = draw(5, 4).relu()
    folded = fold_decode_scale(sae, scale)
    assert torch.allclose(folded.decode(f), sae.decode(f * scale), atol=1e-5)
    assert torch.equal(folded.encode(X), sae.encode(X))


def test_w_enc_and_w_dec_are_the_canonical_matrices() -> None:
    sae = build("relu")
    assert torch.equal(sae.W_enc, ENCODER.T)
    assert torch.equal(sae.W_dec, DECODER)
    assert (sae.d_in, sae.d_sae, sae.d_out) == (2, 4, 2)
    assert "relu, 2 → 4 → 2" in repr(sae)


def test_to_moves_every_tensor() -> None:
    sae = build("jumprelu", threshold=torch.zeros(4), skip=torch.zeros(2, 2), transcoder=True).to("meta")
    assert sae.device.type == "meta"
    assert sae.threshold is not None and sae.threshold.device.type == "meta"
    assert sae.encoder is not None and sae.encoder.device.type == "meta"
