"""The canonical sparse autoencoder: what every format is read into. float32, whatever the file's dtype.

    u = norm(x) - sub · b_dec        p = u · W_enc + b_enc        f = activation(p)        x̂ = f · W_dec + b_dec

Knows nothing of files or formats: decoder-norm scaling and the scaling of inputs are folded into the weights by the
loaders (`fold`), so that one arithmetic serves all.
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autointerp.errors import UserError
from autointerp.sae.sparse import SparseActivations, encode_by_rank, encode_by_threshold

Activation = Literal["relu", "tanh-relu", "topk", "abstopk", "jumprelu", "gated", "groupmax"]
InputNorm = Literal["none", "layer_norm", "constant_norm_rescale"]
_RANKED = ("topk", "abstopk", "groupmax")
_LAYER_NORM_EPS = 1e-5
_LEAST_NORM = 1e-12  # an input of zeros stays one


@dataclass(eq=False, kw_only=True, repr=False)
class SAE:
    """A sparse autoencoder, or a transcoder, ready to encode.

    Weights, float32 on one device: `encoder` [d_sae, d_in] is W_enc transposed and contiguous, `decoder` [d_sae,
    d_out] is W_dec; either may be None, which stands for the identity. `b_enc` [d_sae] is b_gate of a gated SAE.
    `threshold` [d_sae] belongs to "jumprelu"; `r_mag` and `b_mag` [d_sae] to "gated"; `k` to "topk", "abstopk" and
    "groupmax". `skip` [d_in, d_out] adds x · skip to the reconstruction and has no part in the encode.

    `center_input` subtracts every input's mean over d_in first (models whose writing weights were centred before the
    SAE was trained). `transcoder`: the target is not the input, so an input norm is not undone by `decode`.

    `l0_expected` is the config's k or l0, for the conformance gate. `hook_in` and `hook_out` are the names found in the
    config or the folder; `source` is where the SAE was read from. None means that the files do not say.
    """

    activation: Activation
    encoder: Tensor | None
    b_enc: Tensor
    decoder: Tensor | None
    b_dec: Tensor
    threshold: Tensor | None = None
    r_mag: Tensor | None = None
    b_mag: Tensor | None = None
    skip: Tensor | None = None
    k: int | None = None
    subtract_b_dec: bool = False
    input_norm: InputNorm = "none"
    center_input: bool = False
    transcoder: bool = False
    l0_expected: float | None = None
    hook_in: str | None = None
    hook_out: str | None = None
    prepend_bos: bool | None = None
    context_size: int | None = None
    dataset: str | None = None
    model_name: str | None = None
    source: str = ""
    format: str = ""

    def __post_init__(self) -> None:
        if self.encoder is not None:
            self.encoder = self.encoder.contiguous()
        self._check_kind()
        self._check_shapes()

    def _check_kind(self) -> None:
        if self.activation not in get_args(Activation):
            raise ValueError(f"activation is {self.activation!r}, expected one of {get_args(Activation)}")
        needed = {"jumprelu": ("threshold",), "gated": ("r_mag", "b_mag"), **{kind: ("k",) for kind in _RANKED}}
        for name in needed.get(self.activation, ()):
            if getattr(self, name) is None:
                raise ValueError(f"an SAE with activation {self.activation!r} needs {name}")
        if self.k is not None and not 0 < self.k <= self.d_sae:
            raise ValueError(f"k is {self.k}, expected 1 to d_sae = {self.d_sae}")
        if self.l0_expected is not None and not self.l0_expected > 0:
            raise ValueError(f"the expected number of active features is {self.l0_expected}, expected more than 0")
        if self.activation == "groupmax" and self.k is not None and self.d_sae % self.k:
            raise ValueError(f"groupmax needs d_sae ({self.d_sae}) to be a multiple of k ({self.k})")

    def _check_shapes(self) -> None:
        d_in, d_sae, d_out = self.d_in, self.d_sae, self.d_out
        expected = {
            "encoder": (d_sae, d_in), "b_enc": (d_sae,), "decoder": (d_sae, d_out), "b_dec": (d_out,),
            "threshold": (d_sae,), "r_mag": (d_sae,), "b_mag": (d_sae,), "skip": (d_in, d_out),
        }  # fmt: skip
        for name, shape in expected.items():
            tensor = getattr(self, name)
            if tensor is not None and (tuple(tensor.shape) != shape or tensor.dtype != torch.float32):
                raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, expected float32 {list(shape)}")
        if self.decoder is None and d_out != d_sae:
            raise ValueError(f"an identity decoder needs d_out ({d_out}) to equal d_sae ({d_sae})")
        if self.subtract_b_dec and d_out != d_in:
            raise ValueError(f"b_dec [{d_out}] cannot be subtracted from inputs of width {d_in}")

    @property
    def d_in(self) -> int:
        return self.d_sae if self.encoder is None else self.encoder.shape[1]

    @property
    def d_sae(self) -> int:
        return self.b_enc.shape[0]

    @property
    def d_out(self) -> int:
        return self.b_dec.shape[0]

    @property
    def device(self) -> torch.device:
        return self.b_enc.device

    @property
    def W_enc(self) -> Tensor:
        """[d_in, d_sae], a view."""
        return torch.eye(self.d_sae, device=self.device) if self.encoder is None else self.encoder.T

    @property
    def W_dec(self) -> Tensor:
        """The decoder directions, [d_sae, d_out]."""
        return torch.eye(self.d_sae, device=self.device) if self.decoder is None else self.decoder

    @cached_property
    def cut(self) -> Tensor:
        """[d_sae]: a feature fires where p exceeds this. Not for gated and ranked activations."""
        return torch.zeros_like(self.b_enc) if self.threshold is None else self.threshold.clamp(min=0)

    @cached_property
    def gain(self) -> Tensor | None:
        """exp(r_mag) [d_sae] of a gated SAE."""
        return None if self.r_mag is None else self.r_mag.exp()

    def to(self, device: str | torch.device) -> "SAE":
        """This SAE with its weights on `device`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def preactivations(self, x: Tensor) -> Tensor:
        """p = u · W_enc + b_enc: x [N, d_in], any dtype, to float32 [N, d_sae]."""
        u = self._prepare(x)
        return (u if self.encoder is None else u @ self.encoder.T) + self.b_enc

    def encode(self, x: Tensor) -> Tensor:
        """Activations f, dense: x [N, d_in], any dtype, to float32 [N, d_sae]. The reference for `encode_sparse`."""
        u = self._prepare(x)
        pi = u if self.encoder is None else u @ self.encoder.T
        if self.activation == "gated":
            assert self.gain is not None and self.b_mag is not None
            return torch.where(pi + self.b_enc > 0, (self.gain * pi + self.b_mag).relu(), 0.0)
        p = pi + self.b_enc
        if self.activation == "relu":
            return p.relu()
        if self.activation == "tanh-relu":
            return p.relu().tanh()
        if self.activation == "jumprelu":
            assert self.threshold is not None
            return torch.where(p > self.threshold, p.relu(), 0.0)
        return self._rank(p)

    def _rank(self, p: Tensor) -> Tensor:
        """The competing activations. A stable sort gives ties to the lower index; `Tensor.topk` promises nothing."""
        assert self.k is not None
        if self.activation == "groupmax":
            grouped = p.relu().view(len(p), self.k, self.d_sae // self.k)
            best, index = grouped.max(-1, keepdim=True)
            return torch.zeros_like(grouped).scatter_(-1, index, best).flatten(-2)
        rank = p.abs() if self.activation == "abstopk" else p
        index = rank.sort(dim=-1, descending=True, stable=True).indices[:, : self.k]
        kept = p.gather(-1, index)
        return torch.zeros_like(p).scatter_(-1, index, kept if self.activation == "abstopk" else kept.relu())

    def encode_sparse(self, x: Tensor, features: NDArray[np.integer] | None = None) -> SparseActivations:
        """The nonzero activations of x [N, d_in], sorted by (feature, row); equal to the nonzeros of `encode(x)`.

        With `features` only those are returned, under their own indices; a SAE whose features do not compete encodes no
        others. Raises UserError for an index outside 0 … d_sae - 1 and for activations that are not finite.
        """
        chosen = None if features is None else np.unique(np.asarray(features, dtype=np.int64))
        if chosen is not None and len(chosen) and not 0 <= chosen[0] <= chosen[-1] < self.d_sae:
            raise UserError(f"features {chosen[0]} to {chosen[-1]} were asked for; the SAE has 0 to {self.d_sae - 1}")
        with torch.no_grad():
            u = self._prepare(x)
            if self.activation not in _RANKED:
                return encode_by_threshold(self, u, chosen)
            found = encode_by_rank(self, u)
            return found if chosen is None else found.only(chosen)

    def decode(self, f: Tensor, x: Tensor | None = None) -> Tensor:
        """The reconstruction x̂ [N, d_out] of activations f [N, d_sae].

        `x` [N, d_in] is needed by SAEs with a skip connection, an input norm to undo, or centred inputs (ValueError).
        """
        return self._complete(f if self.decoder is None else f @ self.decoder, x)

    def decode_sparse(self, found: SparseActivations, n: int, x: Tensor | None = None) -> Tensor:
        """`decode` of what `encode_sparse` gave for n inputs, at the cost of the nonzeros alone."""
        where = torch.from_numpy(np.stack([found.row, found.feature]).astype(np.int64)).to(self.device)
        values = torch.from_numpy(found.value).to(self.device)
        f = torch.sparse_coo_tensor(where, values, (n, self.d_sae), check_invariants=True)
        return self._complete(f.to_dense() if self.decoder is None else torch.sparse.mm(f, self.decoder), x)

    def _complete(self, out: Tensor, x: Tensor | None) -> Tensor:
        """From f · W_dec to the reconstruction."""
        out = out + self.b_dec
        undo = not self.transcoder and (self.input_norm != "none" or self.center_input)
        if self.skip is None and not undo:
            return out
        if x is None:
            raise ValueError("this SAE's reconstruction depends on its input: pass x")
        x = x.to(self.device, torch.float32)
        if undo:
            out = self._undo_norm(out, x)
        return out if self.skip is None else out + x @ self.skip

    def _prepare(self, x: Tensor) -> Tensor:
        """From activations as the model gives them to u [N, d_in]."""
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise ValueError(f"x is {list(x.shape)}, expected [N, {self.d_in}]")
        u = x.to(self.device, torch.float32)
        if not torch.isfinite(u).all():
            bad = int((~torch.isfinite(u)).any(1).sum())
            raise UserError(
                f"the model's activations are not finite in {bad} of {len(u)} rows, expected finite numbers: "
                "load the model in bfloat16 or float32"
            )
        if self.center_input:
            u = u - u.mean(-1, keepdim=True)
        if self.input_norm == "layer_norm":
            u = (u - u.mean(-1, keepdim=True)) / (u.std(-1, keepdim=True) + _LAYER_NORM_EPS)
        if self.input_norm == "constant_norm_rescale":
            u = u * (self.d_in**0.5 / u.norm(dim=-1, keepdim=True).clamp(min=_LEAST_NORM))
        return u - self.b_dec if self.subtract_b_dec else u

    def _undo_norm(self, out: Tensor, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        if self.input_norm == "layer_norm":
            return out * x.std(-1, keepdim=True) + mean
        if self.input_norm == "constant_norm_rescale":
            out = out * ((x - mean if self.center_input else x).norm(dim=-1, keepdim=True) / self.d_in**0.5)
        return out + mean if self.center_input else out

    def __repr__(self) -> str:
        return f"SAE({self.activation}, {self.d_in} → {self.d_sae} → {self.d_out}, {self.format or '?'}: {self.source})"
