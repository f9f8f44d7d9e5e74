"""A journal as a table: one row a reply, written to Parquet, CSV or JSON lines, a batch of rows at a time."""

import csv
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from autointerp.errors import UserError
from autointerp.files import write_atomically
from autointerp.llm.entry import Entry, to_record
from autointerp.llm.segments import encode

Row = dict[str, Any]

_COLUMNS = {
    "key": "string", "provider": "string", "model": "string", "served_model": "string", "payload_hash": "string",
    "template_hash": "string", "purpose": "string", "sample": "int64", "input_tokens": "int64", "cached_tokens": "int64",
    "written_tokens": "int64", "output_tokens": "int64", "latency_s": "double", "attempts": "int64", "finish": "string",
    "text": "large_string", "time": "string", "money": "double", "prompt_chars": "int64", "logprobs": "large_string",
    "calls": "large_string",
}  # fmt: skip
_BATCH_ROWS = 5_000
_BATCH_CHARS = 1 << 24


def export(entries: Iterable[Entry], target: Path) -> int:
    """Write the entries to `target`, in the format that its suffix names; returns how many.

    Columns are those of a journal's line, `usage` in four columns, `logprobs` and `calls` as JSON text (in JSON lines as lists).
    In Parquet and CSV, which hold Unicode only, a lone surrogate becomes U+FFFD. Raises UserError for an unknown suffix.
    """
    writers: dict[str, Callable[[Iterator[Row], Path], None]] = {
        ".parquet": _write_parquet, ".jsonl": _write_jsonl, ".csv": _write_csv,
    }  # fmt: skip
    if target.suffix not in writers:
        raise UserError(f"{target}: the suffix is {target.suffix!r}; expected one of {', '.join(writers)}")
    count = 0

    def rows() -> Iterator[Row]:
        nonlocal count
        for entry in entries:
            count += 1
            yield _row(entry)

    write_atomically(target, lambda partial: writers[target.suffix](rows(), partial))
    return count


def _row(entry: Entry) -> Row:
    record = to_record(entry)
    usage = record.pop("usage")
    for name in ("input", "cached", "written", "output"):
        record[f"{name}_tokens"] = usage[name]
    return {name: record.get(name) for name in _COLUMNS}


def _write_jsonl(rows: Iterator[Row], path: Path) -> None:
    with path.open("w", encoding="ascii", newline="") as file:
        for row in rows:
            file.write(encode(row) + "\n")


def _write_csv(rows: Iterator[Row], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(_COLUMNS), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(_plain(row))


def _write_parquet(rows: Iterator[Row], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in _COLUMNS.items()])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in _batches(map(_plain, rows)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Lists of rows, limited in number and in characters."""
    batch: list[Row] = []
    chars = 0
    for row in rows:
        batch.append(row)
        chars += len(row["text"]) + len(row["logprobs"] or "") + len(row["calls"] or "")
        if len(batch) >= _BATCH_ROWS or chars >= _BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _plain(row: Row) -> Row:
    """The row in Unicode only, lists as text."""
    lists = [(name, None if row[name] is None else encode(row[name])) for name in ("logprobs", "calls")]
    return {name: _unicode(value) if isinstance(value, str) else value for name, value in chain(row.items(), lists)}


def _unicode(text: str) -> str:
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
