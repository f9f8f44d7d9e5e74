"""The default corpus: the Python standard library of the running interpreter.

Real text that is present on every machine that can run this program, so nothing has to be downloaded or copied into the
repository. Three sources, none of which repeats another:

- the source files of the library (with their docstrings and comments);
- the topics of the language reference that `help()` shows (`pydoc_data.topics`);
- the docstrings of the modules written in C, which have no source file: one document per module.

This module knows nothing of tokens or windows.
"""

import importlib
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from autointerp.subject.documents import Document

# Tables of code points and generated constants: text by accident, no language in them.
_SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "encodings", "pydoc_data", "__pycache__", "ensurepip"})
_TEST_FOLDERS = frozenset({"test", "tests", "idle_test", "testing"})
_MAX_BYTES = 400_000


def stdlib_documents(include_tests: bool = False) -> Iterator[Document]:
    """Yield the standard library's documents in a fixed order (by document id).

    Distributions often leave out the library's own tests, so they are not part of the default corpus.
    """
    yield from _builtin_docstrings()
    yield from _source_files(include_tests)
    yield from _reference_topics()


def _source_files(include_tests: bool) -> Iterator[Document]:
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = _SKIPPED_FOLDERS if include_tests else _SKIPPED_FOLDERS | _TEST_FOLDERS
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        relative = path.relative_to(root)
        if skipped & set(relative.parts[:-1]) or relative.name.startswith("_sysconfigdata"):
            continue
        if not 0 < path.stat().st_size <= _MAX_BYTES:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a few files declare another encoding on purpose
            continue
        if not _is_mostly_ascii(text):
            continue
        yield Document(f"stdlib/{relative.as_posix()}", text)


def _is_mostly_ascii(text: str) -> bool:
    return sum(map(str.isascii, text)) >= 0.97 * len(text)


def _reference_topics() -> Iterator[Document]:
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    for name in sorted(topics):
        yield Document(f"topics/{name}", topics[name])


def _builtin_docstrings() -> Iterator[Document]:
    """One document per C module: its docstring and those of its public functions, classes and methods."""
    for name in sorted(set(sys.builtin_module_names) | {"math", "_datetime", "_decimal", "_json", "_struct"}):
        try:
            module = importlib.import_module(name)
        except ImportError:  # an optional part of the library that this interpreter was built without
            continue
        if getattr(module, "__file__", "") and str(module.__file__).endswith(".py"):
            continue
        parts = list(_docstrings_of(module, name))
        if parts:
            yield Document(f"builtin/{name}", "\n\n".join(parts))


def _docstrings_of(owner: object, name: str, depth: int = 0) -> Iterator[str]:
    doc = getattr(owner, "__doc__", None)
    if isinstance(doc, str) and doc.strip():
        yield f"{name}\n{inspect.cleandoc(doc)}"
    if depth == 2:
        return
    for member in sorted(vars(owner)):
        value = vars(owner)[member]
        if member.startswith("_") or not (callable(value) or inspect.isdatadescriptor(value)):
            continue
        if depth == 0 and getattr(value, "__module__", name) not in (name, "builtins"):
            continue
        if isinstance(value, type):
            yield from _docstrings_of(value, f"{name}.{member}", depth + 1)
        elif isinstance(getattr(value, "__doc__", None), str) and value.__doc__.strip():
            yield f"{name}.{member}\n{inspect.cleandoc(value.__doc__)}"
