"""One file of a corpus, by its name's ending: text, JSON, JSON lines (also packed), Parquet.

JSON lines and Parquet are read piece by piece, so that memory does not grow with the file. Files are untrusted: whatever
is wrong with one ends in a DataError of one line that names the file and the place in it.
"""

import gzip
import io
import json
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autointerp.errors import DataError
from autointerp.subject.corpora.items import document_of, document_of_value
from autointerp.subject.documents import Document

JSON_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".jsonl.zst", ".ndjson.zst")
SHARDS = (*JSON_LINES, ".parquet")
# A longer line is not a document: more likely the file is no JSON lines at all, and must not be read into memory whole.
_MAX_LINE = 1 << 28
_ROWS_AT_ONCE = 32
_READ_AT_ONCE = 1 << 20
# Options of a Parquet file: page by page, and damage is found where its writer has left checksums.
_STREAMED = {"buffer_size": _READ_AT_ONCE, "pre_buffer": False, "page_checksum_verification": True}


def read_file(path: Path, name: str, text_field: str) -> Iterator[Document]:
    """Documents of one file, named after `name`: `name` itself, `name:LINE` (from 1), `name:ROW` (from 0)."""
    ending = path.name.lower()
    if ending.endswith(JSON_LINES):
        return _json_lines(path, name, text_field)
    if ending.endswith(".json"):
        return _json_list(path, name, text_field)
    if ending.endswith(".parquet"):
        return _parquet(path, name, text_field)
    return read_text(path, name)


def read_text(path: Path, name: str) -> Iterator[Document]:
    """A file of plain text: one document, however long, or none if it is empty."""
    text = _text(path)
    if text:
        yield Document(name, text)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what disks and packed files can do into a DataError; so does a file that changed while it was read."""
    try:
        before = path.stat()
        if not stat.S_ISREG(before.st_mode):
            raise DataError(f"{path}: not a file but a device, a pipe or a folder; give a file")
        yield
        after = path.stat()
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        raise DataError(f"{path}: cannot be read to its end ({reason}); is the file whole, here, and yours?") from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise DataError(f"{path}: the file changed while it was read; run again when it is finished")


def _text(path: Path) -> str:
    with reading(path):
        raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8; convert the file to UTF-8, or use .jsonl or .parquet"
        ) from None


def _parsed(text: str, where: str, advice: str) -> Any:
    """A JSON value. Numbers are not needed, and as floats they cannot be too long to be read."""
    try:
        return json.loads(text, parse_int=float)
    except RecursionError:
        raise DataError(f"{where}: JSON nested too deeply to be a document; {advice}") from None
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON ({error}); {advice}") from None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each line that is not blank."""
    with reading(path), _opened(path) as stream:
        number = 0
        while raw := stream.readline(_MAX_LINE + 1):
            number += 1
            if len(raw) > _MAX_LINE:
                raise DataError(
                    f"{path}, line {number}: longer than {_MAX_LINE >> 20} MB; expected one document a line"
                )
            if not raw.isspace():
                yield number, raw


def _opened(path: Path) -> io.BufferedIOBase:
    ending = path.suffix.lower()
    if ending == ".gz":
        return gzip.open(path, "rb")
    if ending == ".zst":
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"), _READ_AT_ONCE)
    return path.open("rb")


def _json_lines(path: Path, name: str, text_field: str) -> Iterator[Document]:
    for number, raw in _lines(path):
        where = f"{path}, line {number}"
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: byte {error.start} is not UTF-8; convert the file to UTF-8") from None
        item = _parsed(text, where, "expected one JSON value a line")
        document = document_of(item, text_field, f"{name}:{number}", where)
        if document is not None:
            yield document


def _json_list(path: Path, name: str, text_field: str) -> Iterator[Document]:
    items = _parsed(_text(path), str(path), "for one object a line name the file .jsonl")
    if not isinstance(items, list):
        raise DataError(f"{path}: a JSON list of documents was expected, found {type(items).__name__}")
    for index, item in enumerate(items):
        document = document_of(item, text_field, f"{name}:{index}", f"{path}, element {index}")
        if document is not None:
            yield document


def _parquet(path: Path, name: str, text_field: str) -> Iterator[Document]:
    for row, value in _rows(path, text_field):
        document = document_of_value(value, f"{name}:{row}", f"{path}, row {row}, column {text_field!r}")
        if document is not None:
            yield document


def _rows(path: Path, text_field: str) -> Iterator[tuple[int, Any]]:
    """Number and value of each row of the column, read page by page: a row group may be larger than the memory."""
    import pyarrow.lib
    import pyarrow.parquet

    row = -1  # not yet at a row
    with reading(path):
        try:
            with pyarrow.parquet.ParquetFile(path, **_STREAMED) as file:
                _check_column(file.schema_arrow, text_field, path)
                row = 0
                for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[text_field]):
                    for value in batch.column(0):
                        yield row, value.as_py()
                        row += 1
        except UnicodeDecodeError:
            raise DataError(f"{path}, row {row}, column {text_field!r}: not UTF-8; write the column again") from None
        except (pyarrow.lib.ArrowException, OSError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            place = f"{path}, at or after row {row}" if row >= 0 else str(path)
            raise DataError(f"{place}: not a readable Parquet file ({reason}); fetch or write it again") from error


def _check_column(schema: Any, text_field: str, path: Path) -> None:
    """Raises DataError unless the column can hold texts or conversations. `schema`: a pyarrow schema."""
    from pyarrow import types

    if text_field not in schema.names:
        raise DataError(f"{path}: no column {text_field!r}, found {schema.names}; name the column with --text-field")
    if schema.names.count(text_field) > 1:
        raise DataError(f"{path}: two columns are named {text_field!r}; rename one")
    found = kind = schema.field(text_field).type
    if types.is_dictionary(kind):
        kind = kind.value_type
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    is_chat = (types.is_list(kind) or types.is_large_list(kind)) and types.is_struct(kind.value_type)
    if not (is_text or is_chat):
        raise DataError(
            f"{path}: column {text_field!r} is of type {found}, expected strings, or lists of chat messages; "
            "name another column with --text-field"
        )
