"""Which features are meant: `all`, ids and ranges such as 0-999,2048, or a file of them, FILE or @FILE."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autointerp.errors import DataError, UserError
from autointerp.hashing import hex_hash


def parse_features(text: str, width: int) -> NDArray[np.int64]:
    """Sorted distinct ids of `all`, `0-999,2048` or a file, FILE or @FILE, with one such piece a line (# begins a comment).

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


def chosen_features(text: str, width: int, sampled: Sequence[int], where: str) -> frozenset[int] | None:
    """Those of the `sampled` features that are named; None: all of them. `where`: whose they are, for messages.

    Raises UserError for features that are not among them, by their names.
    """
    if text.strip() == "all":
        return None
    chosen = frozenset(parse_features(text, width).tolist())
    if missing := sorted(chosen - set(sampled)):
        raise UserError(
            f"--features: {where} has no samples of {in_a_row(missing)}; it has {len(sampled):,} of the SAE's {width:,} features "
            '(autointerp sql "SELECT feature_id FROM features")'
        )
    return None if len(chosen) == len(sampled) else chosen


def in_a_row(features: Sequence[object], most: int = 10) -> str:
    """The first ones, and how many more there are, for messages."""
    shown = ", ".join(map(str, features[:most]))
    return shown + (f" and {len(features) - most:,} more" if len(features) > most else "")


def features_identity(text: str) -> str:
    """Tells one choice of features from another: the text itself, but of a file what it lists, whatever its name.

    Raises UserError and DataError as `parse_features` does, but knows of no width.
    """
    if text.strip() == "all":
        return text
    ranges = _ranges(text)  # a file that has gone is no list either, and is said to be none
    return text if _file(text) is None else hex_hash("features", *sorted(set(ranges)))


def _file(text: str) -> Path | None:
    """The file that is meant; a long text is a list of ids, not a name. Raises UserError for an @FILE that is not there."""
    name = text.strip().removeprefix("@")
    path = Path(name).expanduser()
    if len(name) < 255 and path.is_file():
        return path
    if text.strip().startswith("@"):
        raise UserError(f"--features {text!r}: there is no file {name}")
    return None


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
            f"--features {text!r} names no feature; expected all, ids and ranges such as 0-999,2048, or a file (@FILE)"
        )
    return ranges


def _range(piece: str, text: str) -> tuple[int, int]:
    first, dash, last = piece.partition("-")
    if len(piece) > 40 or not first.strip().isdecimal() or (dash and not last.strip().isdecimal()):
        raise UserError(
            f"--features {text!r}: {piece!r} is neither an id nor a range, and no file has that name; "
            "expected all, ids and ranges such as 0-999,2048, or a file (@FILE) with one a line"
        )
    low, high = int(first), int(last) if dash else int(first)
    if low > high:
        raise UserError(f"--features {text!r}: the range {piece!r} runs backwards; write {high}-{low}")
    return low, high
