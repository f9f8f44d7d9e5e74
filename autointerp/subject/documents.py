"""A document: a named piece of text. Everything downstream that must be independent hangs on documents."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """`doc_id` names the text for people and for the split hash; it must be unique within a corpus."""

    doc_id: str
    text: str
