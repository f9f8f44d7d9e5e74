"""Where documents come from: the standard library, files and folders, or a Hugging Face data set.

`open_corpus(source)` gives an iterator of documents in a fixed order. Sources:

    stdlib                    the Python standard library of the running interpreter (default)
    PATH.txt | PATH.md | ...  one document a file; a folder: every text file below it
    PATH.jsonl | .json        a line (an element) a document: a string, or an object with the text field
    PATH.parquet              a row a document
    hf:NAME[:CONFIG[:SPLIT]]  a data set of the Hugging Face hub or a local folder of one, streamed (needs `datasets`)
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonlines

from autointerp.errors import DataError, UserError
from autointerp.hashing import stable_hash
from autointerp.subject.documents import Document
from autointerp.subject.stdlib import stdlib_documents

_TEXT_SUFFIXES = frozenset({".txt", ".md", ".rst", ".py", ".c", ".h", ".cpp", ".js", ".ts", ".java", ".go", ".rs", ".html",
                            ".tex", ".csv", ".toml", ".yaml", ".yml", ".cfg", ".sh", ".sql"})  # fmt: skip


def open_corpus(source: str, text_field: str = "text") -> Iterator[Document]:
    """Documents of `source`, empty ones left out. Raises UserError when the source cannot be read.

    The files of the standard library and of a folder come in the order of a hash of their names: a limit on tokens then
    takes a fair sample of them. Lines, rows and streams come as they stand.
    """
    if source == "stdlib":
        return iter(_hashed_order(list(stdlib_documents())))
    if source.startswith("hf:"):
        return _hugging_face(source.removeprefix("hf:"), text_field)
    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(
            f"corpus {source!r}: no such file or folder; give a path to .txt, .json, .jsonl or .parquet, a folder of text "
            "files, hf:NAME for a Hugging Face data set, or stdlib"
        )
    return _non_empty(_from_path(path, text_field))


def _hashed_order(documents: list[Document]) -> list[Document]:
    return sorted(documents, key=lambda document: (stable_hash("order", document.doc_id), document.doc_id))


def _non_empty(documents: Iterator[Document]) -> Iterator[Document]:
    return (document for document in documents if document.text)


def _from_path(path: Path, text_field: str) -> Iterator[Document]:
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".jsonl":
        return _json_lines(path, text_field)
    if path.suffix == ".json":
        return _json_list(path, text_field)
    if path.suffix == ".parquet":
        return _parquet(path, text_field)
    return iter([Document(path.name, _read_text(path))])


def _folder(folder: Path) -> Iterator[Document]:
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix.lower() in _TEXT_SUFFIXES)
    if not names:
        raise UserError(f"corpus {str(folder)!r}: no text files below this folder (looked for {_known_suffixes()})")
    names.sort(key=lambda name: (stable_hash("order", name), name))
    return (Document(name, _read_text(folder / name)) for name in names)


def _known_suffixes() -> str:
    return ", ".join(sorted(_TEXT_SUFFIXES))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8; convert the file to UTF-8, or use .jsonl or .parquet"
        ) from error


def _json_lines(path: Path, text_field: str) -> Iterator[Document]:
    with jsonlines.open(path) as reader:
        line = 0
        try:
            for line, item in enumerate(reader, start=1):
                yield Document(f"{path.name}:{line}", _text_of(item, text_field, f"{path}, line {line}"))
        except jsonlines.InvalidLineError as error:
            raise DataError(f"{path}, line {error.lineno}: not valid JSON ({error.args[0]})") from error


def _json_list(path: Path, text_field: str) -> Iterator[Document]:
    try:
        items = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not valid JSON ({error}); for one object a line name the file .jsonl") from error
    if not isinstance(items, list):
        raise DataError(f"{path}: a JSON list of documents was expected, found {type(items).__name__}")
    for index, item in enumerate(items):
        yield Document(f"{path.name}:{index}", _text_of(item, text_field, f"{path}, element {index}"))


def _text_of(item: Any, text_field: str, where: str) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, dict) and isinstance(item.get(text_field), str):
        return str(item[text_field])
    found = sorted(item) if isinstance(item, dict) else type(item).__name__
    raise DataError(f"{where}: no text field {text_field!r}, found {found}; name the field with --text-field")


def _parquet(path: Path, text_field: str) -> Iterator[Document]:
    import pyarrow.lib
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.lib.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
    names = file.schema_arrow.names
    if text_field not in names:
        raise DataError(f"{path}: no column {text_field!r}, found {names}; name the column with --text-field")
    row = 0
    for batch in file.iter_batches(batch_size=256, columns=[text_field]):
        for text in batch.column(0).to_pylist():
            if isinstance(text, str):
                yield Document(f"{path.name}:{row}", text)
            row += 1


def _hugging_face(name: str, text_field: str) -> Iterator[Document]:
    try:
        import datasets
    except ImportError as error:
        raise UserError("a corpus hf:… needs the package datasets: pip install 'autointerp[datasets]'") from error
    dataset, config, split = (*name.split(":"), "", "")[:3]
    try:
        stream = datasets.load_dataset(dataset, config or None, split=split or "train", streaming=True)
    except Exception as error:  # the library raises many kinds; each means that the data set cannot be opened
        raise UserError(f"data set {name!r} could not be opened: {type(error).__name__}: {error}") from error
    for row, item in enumerate(stream):
        text = _text_of(item, text_field, f"data set {name}, row {row}")
        if text:
            yield Document(f"{name}:{row}", text)
