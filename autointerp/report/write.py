"""One HTML file of a whole catalog: everything inside, nothing fetched, the same bytes for the same catalog.

The shell (head, summary, table frame) is a Jinja template with autoescape; rows and pages are made in the browser from
embedded data. A content security policy admits exactly the one script and the one style sheet, by their hashes.
"""

import base64
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from autointerp.catalog.feature_pages import feature_pages, vocabulary, windows
from autointerp.catalog.main_metrics import main_metrics
from autointerp.catalog.page_rows import ContextQuota
from autointerp.catalog.pages import FeatureRow, feature_rows
from autointerp.errors import UserError
from autointerp.files import write_atomically
from autointerp.report import blocks, payload
from autointerp.report.summary import summarise
from autointerp.report.text import script_json, visible

if TYPE_CHECKING:
    import duckdb

Progress = Callable[[int, int], None]
"""Called with the number of features done and of all features."""

SCRIPTS = ("dom", "data", "charts", "tokens", "table", "scores", "feature", "main")
"""The script's parts in assets/, in the order in which they are joined."""
_READ_AT_ONCE = 4 * blocks.DETAIL_BLOCK


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """What was written: where, how many features it lists, and its size."""

    path: Path
    n_features: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Data:
    """All that the script reads: the index as JSON for a script element, and the blocks."""

    index: str
    blocks: Sequence[blocks.Block]


def write_report(
    connection: "duckdb.DuckDBPyConnection",
    path: Path,
    *,
    title: str,
    limit: int | None = None,
    quota: ContextQuota | None = None,
    progress: Progress | None = None,
) -> ReportFacts:
    """Write the catalog as one HTML file, or its first `limit` features, with at most `quota` contexts a feature.

    `connection` may be read-only. The file appears whole or not at all. Raises UserError where it cannot be written.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}: give the number of features to list, at least 1, or leave it out")
    rows = feature_rows(connection, limit)
    html = render(connection, rows, title, _collect(connection, rows, quota or ContextQuota(), progress))
    content = html.encode("utf-8")
    try:
        write_atomically(path, lambda partial: _write(partial, content))
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path}: the report cannot be written ({reason}); name a file in a writable folder") from error
    return ReportFacts(path, len(rows), len(content))


def _write(path: Path, content: bytes) -> None:
    """Write and reach the disk: a rename must not overtake the bytes that it names."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _collect(
    connection: "duckdb.DuckDBPyConnection",
    rows: Sequence[FeatureRow],
    quota: ContextQuota,
    progress: Progress | None,
) -> _Data:
    """Read the features' pages, block by block in the order of their numbers, as the catalog is sorted."""
    dictionary = blocks.Dictionary()
    ordered = sorted(rows, key=lambda row: row.feature_id)
    salient: dict[int, list[int]] = {}
    made: list[blocks.Block] = []
    mains = main_metrics(connection)
    for start in range(0, len(ordered), _READ_AT_ONCE):
        some = ordered[start : start + _READ_AT_ONCE]
        read = feature_pages(connection, some, quota)
        wanted = [window_id for page in read for window_id in page.window_ids()]
        texts = windows(connection, wanted)
        dictionary.add_windows(texts[window_id] for window_id in wanted if window_id in texts)
        details = [payload.detail(row, page, dictionary, mains) for row, page in zip(some, read, strict=True)]
        for first in range(0, len(details), blocks.DETAIL_BLOCK):
            number = (start + first) // blocks.DETAIL_BLOCK
            made.append(blocks.block(f"detail-{number}", details[first : first + blocks.DETAIL_BLOCK]))
        made.extend(dictionary.window_blocks())
        salient |= {page.feature_id: payload.salient_tokens(page, texts) for page in read}
        if progress:
            progress(start + len(some), len(ordered))
    made.extend(dictionary.window_blocks(last=True))
    known = vocabulary(connection, dictionary.tokens)
    made.append(dictionary.block(known))
    shown = {feature: [blocks.token_display(t, known) for t in tokens] for feature, tokens in salient.items()}
    index = {"windowBlock": blocks.WINDOW_BLOCK, "columns": payload.index(rows, shown)}
    return _Data(script_json(index), made)


def render(connection: "duckdb.DuckDBPyConnection", rows: Sequence[FeatureRow], title: str, data: _Data) -> str:
    """The whole page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("autointerp.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = _asset("report.css"), _script()
    return environment.get_template("report.html.j2").render(
        title=visible(title),
        policy=policy(style, script),
        style=Markup(style),
        script=Markup(script),
        index=Markup(data.index),
        blocks=data.blocks,
        summary=summarise(connection, len(rows)),
    )


def policy(style: str, script: str) -> str:
    """A content security policy that admits these two inline texts and nothing else, from anywhere."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_digest(script)}'",
            f"style-src '{_digest(style)}'",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
        )
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}"


def _script() -> str:
    """The parts, joined and wrapped so that none of their names is global."""
    parts = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();'


def _asset(name: str) -> str:
    return files("autointerp.report").joinpath("assets", name).read_text(encoding="utf-8").replace("\r\n", "\n")
