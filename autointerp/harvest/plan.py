"""The plan of a harvest: the corpus tokenised and cut into windows, on disk, in parts that end at document boundaries.

Everything that must not depend on machines or shards is settled here, before a model runs: which windows there are, their
splits, and which of them make the shared random pool. A part is the unit of work and of resumption.

    plan/documents.parquet      doc, doc_id, split, n_tokens
    plan/windows-00000.parquet  window_id, doc, start, split, tokens; about `part_windows` windows
    plan/pool.parquet           window_id of the pool's windows, in the pool's order
    plan/COMPLETE.json          counts, and the fingerprint of the settings
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.lib
import pyarrow.parquet as pq
from numpy.typing import NDArray

from autointerp.catalog.records import SPLITS
from autointerp.errors import DataError, UserError
from autointerp.files import read_marker, write_atomically, write_marker
from autointerp.harvest.tokenise import Tokenizer, tokenised
from autointerp.subject.documents import Document
from autointerp.subject.windows import Windows, cut_document, join, pool_keys, split_of


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """`window`: document tokens a window. `max_tokens`: stop after so many tokens of the corpus; None takes all."""

    window: int
    max_tokens: int | None
    pool: int
    seed: int
    part_windows: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A finished plan on disk. `windows_per_split` is in the order of SPLITS; `window`: tokens of a full window."""

    folder: Path
    window: int
    tokens_per_part: tuple[int, ...]
    n_documents: int
    n_windows: int
    n_tokens: int
    windows_per_split: tuple[int, ...]

    @property
    def n_parts(self) -> int:
        return len(self.tokens_per_part)

    def part_tokens(self, parts: Iterable[int]) -> int:
        """Tokens of the given parts."""
        return sum(self.tokens_per_part[part] for part in parts)

    def _part_path(self, index: int) -> Path:
        return self.folder / f"windows-{index:05d}.parquet"

    def part(self, index: int) -> Windows:
        return read_windows(self._part_path(index))

    def pool(self) -> NDArray[np.uint64]:
        """Ids of the pool's windows, sorted."""
        return np.sort(_read(self.folder / "pool.parquet")["window_id"].to_numpy())


def make_plan(
    documents: Iterable[Document], tokenizer: Tokenizer, folder: Path, settings: PlanSettings, fingerprint: str,
    progress: Callable[[int], None] = lambda tokens: None,
) -> Plan:  # fmt: skip
    """Write the plan, or return the one that is there if it was made from the same settings.

    Raises UserError for a corpus without tokens.
    """
    done = finished_plan(folder, fingerprint)
    if done is not None:
        return done
    for stale in (folder / "COMPLETE.json", *folder.glob("*")):  # the marker first
        stale.unlink(missing_ok=True)
    writer = _Writer(folder, settings)
    for document, tokens in tokenised(documents, tokenizer, settings.max_tokens):
        writer.add(document, tokens)
        progress(len(tokens))
    if writer.n_tokens == 0:
        raise UserError("the corpus has no tokens: every document is empty; check --corpus and --text-field")
    facts = writer.finish() | {"fingerprint": fingerprint}
    write_marker(folder, facts)
    return _plan(folder, facts)


def finished_plan(folder: Path, fingerprint: str) -> Plan | None:
    """The plan that is there, if it is complete and was made from the same settings."""
    facts = read_marker(folder)
    if facts is None or facts.get("fingerprint") != fingerprint:
        return None
    try:
        plan = _plan(folder, facts)
        sound = (
            sum(plan.tokens_per_part) == plan.n_tokens > 0
            and len(plan.windows_per_split) == len(SPLITS)
            and sum(plan.windows_per_split) == plan.n_windows
            and all(plan._part_path(index).exists() for index in range(plan.n_parts))
        )
    except (KeyError, TypeError):  # a damaged marker marks nothing
        return None
    return plan if sound else None


def _plan(folder: Path, facts: dict[str, Any]) -> Plan:
    return Plan(
        folder=folder,
        window=facts["window"],
        tokens_per_part=tuple(facts["tokens_per_part"]),
        n_documents=facts["n_documents"],
        n_windows=facts["n_windows"],
        n_tokens=facts["n_tokens"],
        windows_per_split=tuple(facts["windows_per_split"]),
    )


class _Writer:
    """Collects windows into parts and the facts about all of them."""

    def __init__(self, folder: Path, settings: PlanSettings) -> None:
        self.folder, self.settings = folder, settings
        self.n_tokens = 0
        self._tokens_per_part: list[int] = []
        self._open: list[Windows] = []
        self._open_windows = 0
        self._documents: list[tuple[int, str, str, int]] = []
        self._seen: set[str] = set()
        self._window_ids: list[NDArray[np.uint64]] = []
        self._per_split = np.zeros(len(SPLITS), np.int64)

    def add(self, document: Document, tokens: NDArray[np.uint32]) -> None:
        if document.doc_id in self._seen:
            raise DataError(f"corpus: two documents are named {document.doc_id!r}; names must be unique")
        self._seen.add(document.doc_id)
        windows = cut_document(len(self._documents), document.doc_id, tokens, self.settings.window, self.settings.seed)
        split = SPLITS[split_of(document.doc_id, self.settings.seed)]
        self._documents.append((len(self._documents), document.doc_id, split, len(tokens)))
        self._per_split += np.bincount(windows.split, minlength=len(SPLITS))
        self._window_ids.append(windows.window_id)
        self._open.append(windows)
        self._open_windows += len(windows)
        self.n_tokens += len(tokens)
        if self._open_windows >= self.settings.part_windows:
            self._close_part()

    def finish(self) -> dict[str, Any]:
        if self._open:
            self._close_part()
        doc, doc_id, split, n_tokens = zip(*self._documents, strict=True)
        documents = pa.table({
            "doc": pa.array(doc, pa.uint32()), "doc_id": doc_id, "split": split, "n_tokens": pa.array(n_tokens, pa.uint32()),
        })  # fmt: skip
        _write(documents, self.folder / "documents.parquet")
        ids = np.concatenate(self._window_ids)
        if len(np.unique(ids)) != len(ids):
            raise DataError("corpus: two windows have the same 64-bit id; rename a document")
        order = np.lexsort((ids, pool_keys(self.settings.seed, ids)))[: self.settings.pool]
        _write(pa.table({"window_id": ids[order]}), self.folder / "pool.parquet")
        return {
            "window": self.settings.window, "tokens_per_part": self._tokens_per_part,
            "n_documents": len(doc), "n_windows": len(ids), "n_tokens": self.n_tokens,
            "windows_per_split": self._per_split.tolist(),
        }  # fmt: skip

    def _close_part(self) -> None:
        windows = join(self._open)
        write_windows(windows, self.folder / f"windows-{len(self._tokens_per_part):05d}.parquet")
        self._tokens_per_part.append(len(windows.tokens))
        self._open, self._open_windows = [], 0


def write_windows(windows: Windows, path: Path) -> None:
    lists = pa.LargeListArray.from_arrays(windows.offsets, pa.array(windows.tokens))
    plain = {name: getattr(windows, name) for name in ("window_id", "doc", "start", "split")}
    _write(pa.table(plain | {"tokens": lists}), path)


def read_windows(path: Path) -> Windows:
    table = _read(path)
    lists = table["tokens"].combine_chunks()
    return Windows(
        **{name: table[name].to_numpy() for name in ("window_id", "doc", "start", "split")},
        offsets=lists.offsets.to_numpy().astype(np.int64),
        tokens=lists.values.to_numpy(),
    )


def _write(table: pa.Table, path: Path) -> None:
    write_atomically(path, lambda partial: pq.write_table(table, partial, compression="zstd", write_page_checksum=True))


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, page_checksum_verification=True)
    except (pyarrow.lib.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}); delete its folder and run again") from error
