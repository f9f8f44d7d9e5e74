"""Windows in, firings out: the only place of the harvest where the subject model and the SAE run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from autointerp.errors import DataError
from autointerp.harvest.sketch import BatchWindows, Firings
from autointerp.harvest.tokens import special_ids
from autointerp.sae import SAE
from autointerp.subject.hookpoints import Hookpoint, capture
from autointerp.subject.model import Subject
from autointerp.subject.windows import Windows


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Hidden states of the real tokens of a batch, in window order: BOS, padding and special tokens are left out.

    `hidden` [n, d_in], on the subject's device; `row` int32 [n], the window within the batch; `position` uint16 [n].
    """

    hidden: torch.Tensor
    row: NDArray[np.int32]
    position: NDArray[np.uint16]


class Reader:
    """Runs batches of windows through the subject, as far as the hookpoint, and through the SAE's encoder.

    Tokens whose hidden state is longer than `max_norm`, attention sinks for the most part, are left out.
    """

    def __init__(
        self, subject: Subject, sae: SAE, hookpoint: Hookpoint, *, prepend_bos: bool, max_norm: float | None = None
    ) -> None:
        self.subject, self.sae, self.hookpoint, self.max_norm = subject, sae, hookpoint, max_norm
        self._bos = subject.tokenizer.bos_token_id if prepend_bos else None
        self._special = np.array(sorted(special_ids(subject.tokenizer)), dtype=np.int64)

    def hidden(self, windows: Windows, begin: int, end: int) -> TokenRows:
        """Hidden states at the hookpoint of windows begin … end − 1."""
        return next(hidden_states([self], windows, begin, end))

    def firings(self, windows: Windows, begin: int, end: int, features: NDArray[np.int64] | None) -> Firings:
        """Activations of windows begin … end − 1, of all features or of those named, sorted by (feature, window)."""
        return self.encode(self.hidden(windows, begin, end), features)

    def encode(self, tokens: TokenRows, features: NDArray[np.int64] | None) -> Firings:
        """Activations of the given hidden states, sorted by (feature, window)."""
        sparse = self.sae.encode_sparse(tokens.hidden, features)
        value = sparse.value
        if not np.isfinite(value).all():
            raise DataError(
                f"the activation of feature {sparse.feature[~np.isfinite(value)][0]} is not finite, though the hidden states at "
                f"{self.hookpoint} are; check the SAE's weights ({self.sae.source})"
            )
        found = Firings(sparse.feature, tokens.row[sparse.row], tokens.position[sparse.row], value, tokens.position)
        if (positive := value > 0).all():
            return found
        # An abstopk SAE keeps signs. An activation is a value ≥ 0 here (scoring.md, Words); the negative side is left out.
        kept = (found.feature[positive], found.row[positive], found.position[positive], found.value[positive])
        return Firings(*kept, tokens.position)

    @property
    def shift(self) -> int:
        """Tokens before the window's own."""
        return 0 if self._bos is None else 1

    def batch(self, windows: Windows, begin: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Token ids [b, t], padded on the right, where a causal model does not look; and which of them count."""
        lengths = np.diff(windows.offsets[begin : end + 1])
        width = int(lengths.max()) + self.shift
        inside = np.arange(width)[None] - self.shift < lengths[:, None]
        inside[:, : self.shift] = False
        ids = np.zeros((end - begin, width), np.int64)
        ids[inside] = windows.tokens[windows.offsets[begin] : windows.offsets[end]]
        valid = inside & ~np.isin(ids, self._special)
        if self._bos is not None:
            ids[:, 0] = self._bos
        return ids, valid


def hidden_states(readers: Sequence[Reader], windows: Windows, begin: int, end: int) -> Iterator[TokenRows]:
    """Hidden states of windows begin … end − 1 for each reader, from one forward pass.

    The readers share a subject and its treatment of BOS. Raises DataError for hidden states that are not finite.
    """
    first = readers[0]
    ids, valid = first.batch(windows, begin, end)
    input_ids = torch.from_numpy(ids).to(first.subject.device)
    hookpoints = list(dict.fromkeys(reader.hookpoint for reader in readers))
    states = capture(first.subject.model, hookpoints, input_ids)
    mask = torch.from_numpy(valid).to(input_ids.device)
    row, column = np.nonzero(valid)
    rows, positions = row.astype(np.int32), (column - first.shift).astype(np.uint16)
    chosen: dict[Hookpoint, TokenRows] = {}
    for reader in readers:
        if reader.hookpoint not in chosen:
            hidden = states.pop(reader.hookpoint)[mask]
            if not bool(torch.isfinite(hidden).all()):
                bad = windows.window_id[begin + row[int((~torch.isfinite(hidden)).any(1).nonzero()[0, 0])]]
                raise DataError(
                    f"the subject's hidden state at {reader.hookpoint} is NaN or infinite in window {bad}; "
                    "if the model runs in float16, use --dtype float32 or bfloat16"
                )
            chosen[reader.hookpoint] = _not_too_long(TokenRows(hidden, rows, positions), reader.max_norm)
        yield chosen[reader.hookpoint]


def _not_too_long(tokens: TokenRows, max_norm: float | None) -> TokenRows:
    """The tokens whose hidden state is no longer than `max_norm`."""
    if max_norm is None:
        return tokens
    keep = tokens.hidden.float().norm(dim=-1) <= max_norm
    kept = keep.cpu().numpy()
    return TokenRows(tokens.hidden[keep], tokens.row[kept], tokens.position[kept])


def batches(
    readers: Sequence[Reader], windows: Windows, pool: NDArray[np.uint64],
    features: Sequence[NDArray[np.int64] | None], batch_windows: int,
) -> Iterator[tuple[list[Firings], BatchWindows, int]]:  # fmt: skip
    """Each reader's firings in consecutive batches of windows, with the windows' facts and the number of their tokens."""
    in_pool = np.isin(windows.window_id, pool)
    for begin in range(0, len(windows), batch_windows):
        end = min(begin + batch_windows, len(windows))
        part = slice(begin, end)
        facts = BatchWindows(windows.window_id[part], windows.doc[part], windows.split[part], in_pool[part])
        n_tokens = int(windows.offsets[end] - windows.offsets[begin])
        states = hidden_states(readers, windows, begin, end)
        yield (
            [reader.encode(tokens, wanted) for reader, wanted, tokens in zip(readers, features, states, strict=True)],
            facts,
            n_tokens,
        )
