"""Where documents come from: the standard library, files and folders, or a Hugging Face data set.

`open_corpus(source)` gives an iterator of documents in a fixed order. Sources:

    stdlib                    the Python standard library of the running interpreter (default)
    PATH.txt | PATH.md | ...  one document a file; a folder: every text file below it
    PATH.jsonl[.gz|.zst]      a line a document: a string, or an object with the text field
    PATH.json                 an element of the list a document
    PATH.parquet              a row a document
    FOLDER of .jsonl/.parquet its files as shards of one corpus, in the order of their names
    hf:NAME[:CONFIG[:SPLIT]]  a data set of the Hugging Face hub or a local folder of one, streamed (needs `datasets`)

A text field that holds a list of chat messages makes the document a conversation. Lines, rows and streams are read one by
one, whatever the size of their file. This room knows nothing of tokens.
"""

from collections.abc import Iterator
from pathlib import Path

from autointerp.errors import DataError, UserError
from autointerp.hashing import stable_hash
from autointerp.subject.corpora.files import read_file
from autointerp.subject.corpora.folders import read_folder
from autointerp.subject.documents import Document
from autointerp.subject.stdlib import stdlib_documents

__all__ = ["open_corpus"]


def open_corpus(source: str, text_field: str = "text") -> Iterator[Document]:
    """Documents of `source`, empty ones left out. Raises UserError when the source cannot be read.

    The files of the standard library and of a folder of texts come in the order of a hash of their names: a limit on
    tokens then takes a fair sample of them. Shards, lines, rows and streams come as they stand. What is wrong within a
    file is raised, as DataError, when the iterator comes to it.
    """
    if source == "stdlib":
        return iter(_hashed_order(list(stdlib_documents())))
    if source.startswith("hf:"):
        from autointerp.subject.corpora.hugging_face import read_dataset

        return read_dataset(source.removeprefix("hf:"), text_field)
    try:
        source.encode("utf-8")
        path = Path(source).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # not permitted, no such user, no possible name
        raise DataError(f"corpus {source[:200]!r}: cannot be read ({type(error).__name__}); check the path") from error
    if is_folder:
        return read_folder(path, text_field)
    if is_file:
        return read_file(path, path.name, text_field)
    raise UserError(
        f"corpus {source[:200]!r}: no such file or folder; give a path to .txt, .json, .jsonl or .parquet, a folder of text "
        "files or of .jsonl or .parquet shards, hf:NAME for a Hugging Face data set, or stdlib"
    )


def _hashed_order(documents: list[Document]) -> list[Document]:
    return sorted(documents, key=lambda document: (stable_hash("order", document.doc_id), document.doc_id))
