"""A folder as a corpus: of text files, each a document, or of shards, whose lines and rows are the documents."""

import os
from collections.abc import Iterator
from pathlib import Path

from autointerp.errors import DataError, UserError
from autointerp.hashing import stable_hash
from autointerp.subject.corpora.files import SHARDS, read_file, read_text
from autointerp.subject.documents import Document

TEXTS = (".txt", ".md", ".rst", ".py", ".c", ".h", ".cpp", ".js", ".ts", ".java", ".go", ".rs", ".html",
         ".tex", ".csv", ".toml", ".yaml", ".yml", ".cfg", ".sh", ".sql")  # fmt: skip
# What lies beside shards and speaks about them.
_NOTES = ("readme", "license", "licence", "citation", "notice", "changelog")


def read_folder(folder: Path, text_field: str) -> Iterator[Document]:
    """Documents of all files below `folder`, named by their paths within it. Hidden files and folders are left out.

    A folder with shards and no texts (a README does not count) is read shard by shard in the order of their names; the
    files of a folder of texts come in the order of a hash of their names. Raises UserError for neither and for both.
    """
    names = _names(folder)
    shards = sorted(name for name in names if name.lower().endswith(SHARDS))
    texts = [name for name in names if name.lower().endswith(TEXTS)]
    if shards:
        texts = [name for name in texts if not _is_note(name)]
        if texts:
            raise UserError(
                f"corpus {str(folder)!r}: holds texts (such as {min(texts)}) and shards (such as {shards[0]}), and only one "
                "kind can be the corpus; give a folder of one kind, or a file"
            )
        return _chained(folder, shards, text_field)
    if not texts:
        raise UserError(
            f"corpus {str(folder)!r}: no text files below this folder (looked for {', '.join((*TEXTS, *SHARDS))})"
        )
    texts.sort(key=lambda name: (stable_hash("order", name), name))
    return (document for name in texts for document in read_text(folder / name, name))


def _chained(folder: Path, shards: list[str], text_field: str) -> Iterator[Document]:
    for name in shards:
        yield from read_file(folder / name, name, text_field)


def _is_note(name: str) -> bool:
    return name.rsplit("/", 1)[-1].lower().startswith(_NOTES)


def _names(folder: Path) -> list[str]:
    """Paths of all files below the folder, relative to it, with "/". A part that may not be read is an error."""

    def refuse(error: OSError) -> None:
        raise DataError(
            f"corpus {str(folder)!r}: the folder {error.filename} cannot be read ({error.strerror}); allow it, or move it away"
        ) from error

    names = []
    for here, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [(Path(here) / name).relative_to(folder).as_posix() for name in files if not name.startswith(".")]
    for name in names:
        if not _is_utf8(name):
            raise DataError(f"corpus {str(folder)!r}: the name of the file {name!r} is not UTF-8; rename it")
    return names


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
