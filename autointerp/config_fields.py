"""What the fields of a configuration are made of: a section, and the types that are more than a number or a name."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """Fields each with a sentence below it; a key that is none of them is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _variable_name(name: str | None) -> str | None:
    """A key that was given in place of its variable's name must not be saved, nor shown."""
    if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("not the name of an environment variable (the key itself must not be given here)")
    return name


def listed(words: object) -> object:
    """Words with commas between them as a tuple; what is a list already as it is."""
    return tuple(word.strip() for word in words.split(",") if word.strip()) if isinstance(words, str) else words


def _urls(given: object) -> object:
    """One URL, several, or none as a tuple."""
    return () if given is None else listed(given)


def _without_secrets(urls: tuple[str, ...]) -> tuple[str, ...]:
    """A base URL is saved with the run: no password, no query."""
    if any(sign in url for url in urls for sign in "?#@"):
        raise ValueError("a base URL must have no user, query or fragment; give the key by its environment variable")
    return urls


Words = Annotated[tuple[str, ...], BeforeValidator(listed)]
BaseUrls = Annotated[tuple[str, ...], BeforeValidator(_urls), AfterValidator(_without_secrets)]
KeyVariable = Annotated[str | None, AfterValidator(_variable_name)]
