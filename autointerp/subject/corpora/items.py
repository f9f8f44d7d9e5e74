"""One item of a corpus (a line, an element, a row), as it comes from an untrusted file, made a document. Pure."""

from typing import Any

from autointerp.errors import DataError
from autointerp.subject.documents import ROLES, Document, Message


def document_of(item: Any, text_field: str, doc_id: str, where: str) -> Document | None:
    """The document of a JSON value: a string, or an object whose `text_field` holds a string or a list of messages.

    None for what holds no text: null and the empty string or list. Raises DataError, which begins with `where`.
    """
    if isinstance(item, str):
        return document_of_value(item, doc_id, where)
    if not isinstance(item, dict):
        raise DataError(f"{where}: found {kind_of(item)}, expected a string or an object with the field {text_field!r}")
    if text_field not in item:
        raise DataError(f"{where}: no field {text_field!r}, found {_some(item)}; name the field with --text-field")
    return document_of_value(item[text_field], doc_id, f"{where}, field {text_field!r}")


def document_of_value(value: Any, doc_id: str, where: str) -> Document | None:
    """The document of a text or of a list of messages; None where there is no text. Raises DataError."""
    if value is None:
        return None
    if isinstance(value, str):
        return Document(doc_id, checked_text(value, where)) if value else None
    if isinstance(value, list):
        messages = tuple(_message(one, f"{where}, message {index}") for index, one in enumerate(value))
        return Document(doc_id, "", messages) if any(message.content for message in messages) else None
    raise DataError(
        f"{where}: found {kind_of(value)}, expected text or a list of chat messages; name another field with --text-field"
    )


def checked_text(text: str, where: str) -> str:
    """`text`, if it can be written as UTF-8. A lone half of a surrogate pair, which JSON can spell, cannot."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"\\u{ord(text[error.start]):04x}"
        raise DataError(
            f"{where}: character {error.start} is {found}, half of a surrogate pair and no character; remove it"
        ) from None
    return text


def kind_of(value: Any) -> str:
    """What a JSON value is, for people."""
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "a list",
             dict: "an object", bytes: "bytes", type(None): "null"}  # fmt: skip
    return kinds.get(type(value), type(value).__name__)


def _some(item: dict[Any, Any]) -> str:
    names = [repr(str(name)[:40]) for name in list(item)[:12]]
    return "[" + ", ".join(names) + (", …]" if len(item) > 12 else "]")


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict) or "role" not in value or "content" not in value:
        found = _some(value) if isinstance(value, dict) else kind_of(value)
        raise DataError(f'{where}: found {found}, expected {{"role": …, "content": …}}; convert the conversations')
    role = value["role"]
    if not isinstance(role, str) or role not in ROLES:
        raise DataError(f"{where}: role {str(role)[:40]!r} is not known; use one of {', '.join(sorted(ROLES))}")
    return Message(role, _content(value["content"], where))


def _content(value: Any, where: str) -> str:
    """The text of a message: a string, null (a turn that only calls a tool), or a list of parts of type text."""
    if value is None:
        return ""
    if isinstance(value, str):
        return checked_text(value, where)
    if not isinstance(value, list):
        raise DataError(f"{where}: content is {kind_of(value)}, expected text or a list of text parts")
    return "".join(_part(part, f"{where}, part {index}") for index, part in enumerate(value))


def _part(part: Any, where: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return checked_text(part["text"], where)
    found = f"type {str(part.get('type'))[:40]!r}" if isinstance(part, dict) else kind_of(part)
    raise DataError(f'{where}: found {found}, expected {{"type": "text", "text": …}}; only text can be read')
