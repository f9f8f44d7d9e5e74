"""Which features a run is about: `all`, ids and ranges, or a file of them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autointerp.errors import DataError, UserError
from autointerp.hashing import hex_hash


def parse_features(text: str, width: int) -> NDArray[np.int64]:
    """Sorted distinct ids of `all`, `0-999,2048` or a file with one such piece a line (# begins a comment).

    Raises UserError for an id outside 0 … width − 1 and for text that is none of these; DataError for a file that is no text.
    """
    if text.strip() == "all":
        return np.arange(width, dtype=np.int64)
    ranges = _ranges(text)
    for _, high in ranges:
        if high >= width:
            raise UserError(
                f"--features {text!r}: feature {high} is out of range; the SAE has features 0 to {width - 1}"
            )
    return np.unique(np.concatenate([np.arange(low, high + 1, dtype=np.int64) for low, high in ranges]))


def features_identity(text: str) -> str:
    """Tells one choice of features from another: the text itself, but of a file what it lists, whatever its name.

    Raises UserError and DataError as `parse_features` does, but knows of no width.
    """
    if text.strip() == "all":
        return text
    ranges = _ranges(text)  # a file that has gone is no list either, and is said to be none
    return text if _file(text) is None else hex_hash("features", *sorted(set(ranges)))


def _file(text: str) -> Path | None:
    """The file that is meant; a long text is a list of ids, not a name."""
    path = Path(text)
    return path if len(text) < 255 and path.is_file() else None


def _ranges(text: str) -> list[tuple[int, int]]:
    """(first, last) of each piece."""
    path = _file(text)
    if path is not None:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not a text in UTF-8 ({error.reason}); expected one id or range a line") from None
        pieces = [piece for line in lines for piece in line.partition("#")[0].split(",")]
    else:
        pieces = text.split(",")
    ranges = [_range(piece.strip(), text) for piece in pieces if piece.strip()]
    if not ranges:
        raise UserError(
            f"--features {text!r} names no feature; expected all, ids and ranges such as 0-999,2048, or a file"
        )
    return ranges


def _range(piece: str, text: str) -> tuple[int, int]:
    first, dash, last = piece.partition("-")
    if len(piece) > 40 or not first.strip().isdecimal() or (dash and not last.strip().isdecimal()):
        raise UserError(
            f"--features {text!r}: {piece!r} is neither an id nor a range, and no file has that name; "
            "expected all, ids and ranges such as 0-999,2048, or a file with one a line"
        )
    low, high = int(first), int(last) if dash else int(first)
    if low > high:
        raise UserError(f"--features {text!r}: the range {piece!r} runs backwards; write {high}-{low}")
    return low, high
