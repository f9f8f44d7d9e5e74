"""Which features fire on a text, token by token: a text's own windows, read exactly as the harvest reads a corpus."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autointerp.errors import UserError
from autointerp.harvest.forward import Reader
from autointerp.harvest.tokenise import tokenised
from autointerp.subject.documents import Document
from autointerp.subject.windows import Windows, cut_document


@dataclass(frozen=True, slots=True)
class TokenFirings:
    """One token of the text and the features that fire on it, strongest first, ties by the lower feature.

    `index` counts the text's tokens; `window` and `position` say where it was read: `position` counts from the window's
    first token of text (BOS is no token of the text). `feature` int32 and `activation` float32, of equal length.
    """

    index: int
    window: int
    position: int
    token: int
    feature: NDArray[np.int32]
    activation: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Peak:
    """A feature's largest activation over the text, the `index` of the first token that has it, and on how many it fires."""

    feature: int
    activation: float
    index: int
    n_tokens: int


def probe(
    reader: Reader, text: str, *, window: int, features: NDArray[np.int64] | None = None, batch_windows: int = 32
) -> list[TokenFirings]:
    """The text's tokens with what fires on them: of all features, or of those given (ascending).

    `window`: tokens of text a window; a longer text is cut, and no window sees another, as in a harvest. Special tokens'
    names in the text are text. Raises UserError for a text without tokens.
    """
    windows = text_windows(reader, text, window)
    if len(windows.tokens) == 0:
        raise UserError("the text is empty: there is no token to look at")
    parts = [
        _firings(reader, windows, begin, min(begin + batch_windows, len(windows)), features)
        for begin in range(0, len(windows), batch_windows)
    ]
    index, feature, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((feature, -value, index))
    bounds = np.searchsorted(index[order], np.arange(len(windows.tokens) + 1))
    feature, value = feature[order], value[order]
    owner = np.repeat(np.arange(len(windows)), np.diff(windows.offsets))
    return [
        TokenFirings(
            index=token,
            window=int(owner[token]),
            position=int(token - windows.offsets[owner[token]]),
            token=int(windows.tokens[token]),
            feature=feature[bounds[token] : bounds[token + 1]],
            activation=value[bounds[token] : bounds[token + 1]],
        )
        for token in range(len(windows.tokens))
    ]


def text_windows(reader: Reader, text: str, window: int) -> Windows:
    """The windows of one text, as the harvest's plan would cut them."""
    if window < 1:
        raise UserError(f"a window of {window} tokens of text cannot be read; give a longer one")
    document = Document("text", text)
    nothing = np.zeros(0, np.uint32)
    tokens = next((found for _, found in tokenised([document], reader.subject.tokenizer)), nothing)
    return cut_document(0, document.doc_id, tokens, window, seed=0)


def _firings(
    reader: Reader, windows: Windows, begin: int, end: int, features: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Index of the token, feature, activation, of every firing in windows begin … end − 1."""
    found = reader.firings(windows, begin, end, features)
    return windows.offsets[begin + found.row] + found.position, found.feature, found.value


def peaks(tokens: Sequence[TokenFirings]) -> list[Peak]:
    """The features that fire anywhere in the text, by their maximum over it, largest first; ties by the lower feature."""
    best: dict[int, Peak] = {}
    for index, feature, activation in _flat(tokens):
        known = best.get(feature)
        count = 1 if known is None else known.n_tokens + 1
        if known is None or activation > known.activation:
            best[feature] = Peak(feature, activation, index, count)
        else:
            best[feature] = Peak(feature, known.activation, known.index, count)
    return sorted(best.values(), key=lambda peak: (-peak.activation, peak.feature))


def _flat(tokens: Sequence[TokenFirings]) -> Iterator[tuple[int, int, float]]:
    for token in tokens:
        for feature, activation in zip(token.feature.tolist(), token.activation.tolist(), strict=True):
            yield token.index, feature, activation
