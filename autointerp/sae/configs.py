"""Configs that strangers wrote: JSON and YAML objects whose every value is checked before it is used.

Each accessor names the file and the key, says what was found and what was expected (DataError).
"""

import json
import math
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autointerp.errors import DataError

# A config is a few kilobytes: what is larger is something else.
_MOST_BYTES = 1 << 24
_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 80


class Config:
    """An object of settings. A key that is missing and one that is null are the same."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path = path
        self.values = values

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def need(self, key: str) -> Any:
        """The value, of any type, of a key that must be there."""
        if not self.has(key):
            raise DataError(f"{self.path}: has no key {key!r}; it has {some(sorted(map(str, self.values)))}")
        return self.values[key]

    def wrong(self, key: str, expected: str) -> DataError:
        return DataError(f"{self.path}: {key} is {brief(self.values.get(key))}, expected {expected}")

    def integer(self, key: str) -> int:
        """A whole number that must be there."""
        value = as_integer(self.need(key))
        if value is None:
            raise self.wrong(key, "a whole number")
        return value

    def optional_integer(self, key: str) -> int | None:
        return self.integer(key) if self.has(key) else None

    def number(self, key: str) -> float:
        """A finite number that must be there."""
        value = as_number(self.need(key))
        if value is None:
            raise self.wrong(key, "a finite number")
        return value

    def optional_number(self, key: str) -> float | None:
        return self.number(key) if self.has(key) else None

    def flag(self, key: str, default: bool = False) -> bool:
        """true or false: "false" and 0 are refused, because guessing wrong would change what is computed."""
        value = self.need(key) if self.has(key) else default
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, "a text")
        return value

    def note(self, key: str) -> str | None:
        """A text that only describes and that nothing is computed from: anything else than a text counts as missing."""
        value = self.values.get(key)
        return value if isinstance(value, str) else None

    def choice(self, key: str, default: str, choices: Iterable[str]) -> str:
        """One of a few words."""
        value = self.need(key) if self.has(key) else default
        known = list(choices)
        if not isinstance(value, str) or value not in known:
            raise self.wrong(key, ("one of " if len(known) > 1 else "") + ", ".join(known))
        return value

    def section(self, key: str) -> "Config":
        """A nested object; an empty one where it is missing."""
        found = self.values[key] if self.has(key) else {}
        if not isinstance(found, Mapping):
            raise DataError(f"{self.path}: {key} is a {type(found).__name__}, expected an object")
        return Config(self.path, found)


def read_config(path: Path, *, optional: bool = False) -> Config:
    """Read a `.json`, `.yaml` or `.yml` file that holds an object. Missing and optional: an empty Config."""
    if not path.is_file():
        if optional:
            return Config(path, {})
        raise DataError(f"{path}: there is no such file, expected this format's config")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{path}: has {path.stat().st_size} bytes, expected a config of at most {_MOST_BYTES}")
        text = path.read_text(encoding="utf-8-sig")
        found = json.loads(text, object_pairs_hook=_unique) if path.suffix == ".json" else _parse_yaml(text)
    except RecursionError as error:
        raise DataError(f"{path}: is nested too deeply, expected a config") from error
    except ValueError as error:
        raise DataError(f"{path}: is not a valid {path.suffix[1:].upper()} file: {one_line(error)}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {one_line(error)}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds a {type(found).__name__}, expected an object")
    return Config(path, found)


def as_integer(value: Any) -> int | None:
    """The whole number that a value is (4.0 counts, true does not), or None."""
    number = as_number(value)
    return int(value) if number is not None and number == int(number) else None


def as_number(value: Any) -> float | None:
    """The finite number that a value is, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond what a float can hold
        return None


def brief(value: Any) -> str:
    """A value for a message: one line, however large or deep it is."""
    return _brief.repr(value)


def some(names: list[str], most: int = 12) -> str:
    """Names for a message: the first of them, on one line."""
    shown = ", ".join(name if name.isprintable() else ascii(name) for name in names[:most])
    return f"{shown}, … ({len(names)} in all)" if len(names) > most else shown or "nothing"


def one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. A key that is there twice would be read differently by different programs."""
    _check_unique(key for key, _ in pairs)
    return dict(pairs)


def _check_unique(keys: Iterable[Any]) -> None:
    seen: set[str] = set()
    for key in map(str, keys):
        if key in seen:
            raise ValueError(f"the key {key!r} is there twice")
        seen.add(key)


def _parse_yaml(text: str) -> Any:
    import yaml  # type: ignore[import-untyped]

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            _check_unique(key.value for key, _ in node.value)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise ValueError(error) from error
