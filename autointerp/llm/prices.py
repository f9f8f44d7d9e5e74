"""Prices by model, from the packaged data/prices.toml and, before it, from a file of the user's.

A price belongs to the server that asks it: the packaged ones hold for the named hosts only. A model without a price is
counted in tokens; nothing is guessed. Providers that run on this machine cost nothing.
"""

import json
import os
import re
import tomllib
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autointerp.errors import DataError, UserError
from autointerp.llm.price import FREE, LongPrompts, Price
from autointerp.resources import packaged

FREE_PROVIDERS = ("mock", "transformers", "sentence-transformers")

_VERSION = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|latest)")
# provider → the variable that its client reads a base URL from, and its own host
_HOSTS = {
    "openai": ("OPENAI_BASE_URL", "api.openai.com"),
    "openai-batch": ("OPENAI_BASE_URL", "api.openai.com"),
    "anthropic": ("ANTHROPIC_BASE_URL", "api.anthropic.com"),
    "anthropic-batch": ("ANTHROPIC_BASE_URL", "api.anthropic.com"),
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


_Dollars = Annotated[float, Field(ge=0, le=1e6)]
_Factor = Annotated[float, Field(gt=0, le=1e3)]


class _Long(_Strict):
    above: int = Field(gt=0)
    input: _Factor
    output: _Factor


class _Entry(_Strict):
    model: str = Field(min_length=1)
    input: _Dollars
    output: _Dollars
    cached_input: _Dollars | None = None
    cache_write: _Dollars | None = None
    batch: Annotated[float, Field(gt=0, le=1)] | None = None
    cache_from: Annotated[int, Field(gt=0)] | None = None
    long: _Long | None = None
    host: str | None = None
    sources: list[str] = []
    read: date | None = None

    def price(self, source: str) -> Price:
        long = LongPrompts(self.long.above, self.long.input, self.long.output) if self.long else None
        cached = self.input if self.cached_input is None else self.cached_input
        written = self.input if self.cache_write is None else self.cache_write
        return Price(
            self.input, self.output, cached, written, self.batch, self.cache_from, long, self.model, source, self.read
        )


class _Table(_Strict):
    price: list[_Entry]


def find_price(
    provider: str, model: str, base_urls: Sequence[str] = (), user_file: str | Path | None = None
) -> Price | None:
    """What `model` of `provider` (NAME or NAME:ARGUMENT) costs, or None where that is not known.

    The user's file comes first, whatever the provider. Then `mock` and what runs here cost nothing, and the packaged prices
    hold for the host that is asked: that of the base URLs, else the provider's own. Among the entries of a file the
    longest name counts which is the model's, or the model's without a version or date at its end.
    Raises UserError (DataError) for a file that is missing or is not a table of prices.
    """
    host = _host(provider, base_urls)
    if user_file is not None:
        try:
            path = Path(user_file).expanduser()
        except RuntimeError:
            raise UserError(f"{user_file}: no such user; --prices names a TOML file of prices") from None
        entry = _find(_read(path), model, host)
        if entry is not None:
            return entry.price(str(path))
    if provider.partition(":")[0] in FREE_PROVIDERS:
        return FREE
    if host is None:
        return None
    entry = _find(_packaged(), model, host)
    return entry.price("data/prices.toml") if entry else None


def require_price(price: Price | None, model: str) -> Price:
    """`price`, for a run with a budget. Raises UserError that asks for it where it is not known."""
    if price is None:
        line = f"price = [{{ model = {_quoted(model)}, input = 1.00, output = 4.00 }}]"
        raise UserError(
            f"--budget needs the price of the model {model!r}, and none is known; write it in US dollars per million tokens, "
            f"in place of these figures, into a file such as prices.toml: {line} and add --prices prices.toml"
        )
    return price


def unknown_price_note(model: str) -> str:
    """To be said once where tokens can be counted and money can not."""
    return (
        f"the price of {_quoted(model)} is not known: tokens are counted, money is not; give it with --prices FILE.toml"
    )


def price_lines(model: str) -> str:
    """Four lines of TOML that give a price, with made-up figures."""
    return (
        f"[[price]]\nmodel = {_quoted(model)}\n"
        "input = 1.00    # US dollars per million tokens of prompt\n"
        "output = 4.00   # and of answer\n"
    )


def _host(provider: str, base_urls: Sequence[str]) -> str | None:
    """The one host that is asked, or None."""
    variable, own = _HOSTS.get(provider.partition(":")[0], ("", None))
    given = list(base_urls) or [url for url in (os.environ.get(variable),) if url]
    try:
        hosts = {urlsplit(url).hostname for url in given}
    except ValueError:  # no URL; the provider will say so when it is connected
        return None
    if not hosts:
        return own
    return hosts.pop() if len(hosts) == 1 else None


def _find(entries: Sequence[_Entry], model: str, host: str | None) -> _Entry | None:
    fitting = [entry for entry in entries if entry.host in (None, host) and _is_version_of(model, entry.model)]
    return max(fitting, key=lambda entry: (len(entry.model), entry.host is not None), default=None)


def _is_version_of(model: str, name: str) -> bool:
    return model == name or (model.startswith(name) and _VERSION.fullmatch(model, len(name)) is not None)


@lru_cache(maxsize=1)
def _packaged() -> list[_Entry]:
    return _read(packaged("data") / "prices.toml")


def _read(path: Path) -> list[_Entry]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; --prices names a TOML file of prices") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; --prices names a TOML file of prices") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; --prices names a TOML file of prices") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid TOML: {error}") from None
    try:
        entries = _Table.model_validate(data).price
    except ValidationError as error:
        raise DataError("; ".join(_sentence(path, data, dict(detail)) for detail in error.errors()[:3])) from None
    seen: set[tuple[str, str | None]] = set()
    for entry in entries:
        if (entry.model, entry.host) in seen:
            raise DataError(f"{path}: two prices of the model {entry.model!r}; expected one; delete the other")
        seen.add((entry.model, entry.host))
    return entries


def _sentence(path: Path, data: object, detail: dict[str, object]) -> str:
    """One fault of a table: the file, the key, what was found and what was expected."""
    location = detail["loc"]
    assert isinstance(location, tuple)
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    of = f" ({name!r})" if (name := _model_at(data, location)) else ""
    if detail["type"] == "missing":
        needed = "above, input and output" if "long" in location else "a table [[price]] with model, input and output"
        return f"{path}: {key}{of} is missing; expected {needed}"
    if detail["type"] == "extra_forbidden":
        known = _Long if "long" in location[:-1] else _Entry if len(location) > 1 else _Table
        return f"{path}: unknown key {key}{of}; expected: {', '.join(known.model_fields)}"
    tables = {"list_type": "tables [[price]]", "model_type": "a table"}
    expected = tables.get(str(detail["type"]), str(detail["msg"]).lower().removeprefix("input should be "))
    return f"{path}: {key}{of} is {detail['input']!r}; expected {expected}"


def _model_at(data: object, location: tuple[object, ...]) -> str | None:
    match data, location:
        case {"price": [*entries]}, ("price", int(index), *_) if index < len(entries):
            name = entries[index].get("model") if isinstance(entries[index], dict) else None
            return name if isinstance(name, str) else None
    return None


def _quoted(model: str) -> str:
    return json.dumps(model)  # a JSON string is a TOML string, too
