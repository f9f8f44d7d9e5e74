"""Reads a report back: its elements, its index, and its inflated blocks."""

import base64
import json
import zlib
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


@dataclass
class Report(HTMLParser):
    """The parsed file: `tags` with their `attributes`, `scripts` by id ("" for the program), `text` outside of them."""

    html: str
    tags: list[str] = field(default_factory=list)
    attributes: list[dict[str, str | None]] = field(default_factory=list)
    scripts: dict[str, str] = field(default_factory=dict)
    style: str = ""
    text: str = ""
    _inside: str | None = None

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append(dict(attrs))
        if tag in ("script", "style"):
            self._inside = tag
        if tag == "script":
            self.scripts[dict(attrs).get("id") or ""] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[list(self.scripts)[-1]] += data
        elif self._inside == "style":
            self.style += data
        else:
            self.text += data

    @property
    def index(self) -> dict[str, list[Any]]:
        return dict(json.loads(self.scripts["index"])["columns"])

    def row(self, feature: int) -> dict[str, Any]:
        """The feature's cells of the index."""
        place = self.index["id"].index(feature)
        return {name: column[place] for name, column in self.index.items()}

    def block(self, name: str) -> Any:
        return json.loads(zlib.decompress(base64.b64decode(self.scripts[name], validate=True)))

    def detail(self, feature: int) -> dict[str, Any]:
        found = [one for one in self.block(f"detail-{self.row(feature)['detail']}") if one["id"] == feature]
        assert len(found) == 1
        return dict(found[0])

    def window(self, number: int) -> list[int]:
        """The token ids of a window, as the script finds them."""
        size = json.loads(self.scripts["index"])["windowBlock"]
        ids = self.block("dictionary")["ids"]
        return [ids[token] for token in self.block(f"windows-{number // size}")["tokens"][number % size]]

    @property
    def words(self) -> str:
        """The text with its white space collapsed, as a reader sees it."""
        return " ".join(self.text.split())


def read_report(path: Path) -> Report:
    return Report(path.read_bytes().decode("utf-8"))
