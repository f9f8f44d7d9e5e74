"""A data set of the Hugging Face hub, or a local folder laid out as one, streamed: nothing is downloaded whole."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autointerp.errors import DataError, UserError
from autointerp.subject.corpora.items import document_of
from autointerp.subject.documents import Document


def read_dataset(name: str, text_field: str) -> Iterator[Document]:
    """Documents of NAME[:CONFIG[:SPLIT]] (split train by default), named `NAME:ROW`, of a local folder by its last part.

    Raises UserError where it cannot be opened, DataError where a row cannot be read.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError("a corpus hf:… needs the package datasets: pip install 'autointerp[datasets]'") from error
    parts = name.split(":")
    if len(parts) > 3 or not parts[0]:
        raise UserError(f"data set {name!r}: expected hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT")
    source, config, split = (*parts, "", "")[:3]
    local = Path(source).expanduser()
    datasets.disable_progress_bars()  # reading the corpus is not one of our stages
    try:
        stream = datasets.load_dataset(
            str(local) if local.is_dir() else source, config or None, split=split or "train", streaming=True
        )
        columns = stream.column_names
    except Exception as error:  # the library raises many kinds; each means that the data set cannot be opened
        raise UserError(f"data set {name!r} could not be opened: {_reason(error)}") from error
    if columns is not None and text_field not in columns:
        raise DataError(
            f"data set {name}: no column {text_field!r}, found {columns}; name the column with --text-field"
        )
    called = ":".join([local.resolve().name, *parts[1:]]) if local.is_dir() else name
    # Only the texts: other columns may hold images or audio, which would be decoded for nothing.
    return _documents(stream.select_columns([text_field]) if columns else stream, name, called, text_field)


def _documents(stream: Any, name: str, called: str, text_field: str) -> Iterator[Document]:
    for row, item in enumerate(_rows(stream, name)):
        document = document_of(item, text_field, f"{called}:{row}", f"data set {name}, row {row}")
        if document is not None:
            yield document


def _rows(stream: Any, name: str) -> Iterator[Any]:
    row = 0
    try:
        for item in stream:
            yield item
            row += 1
    except Exception as error:  # a network, a damaged file: the library raises many kinds
        raise DataError(f"data set {name}: row {row} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0][:300]}"
