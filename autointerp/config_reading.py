"""From what a folder holds, a TOML file and the options of a command to a run's configuration, in rising precedence.

Unknown keys are refused with the nearest known ones.
"""

import difflib
import tomllib
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from autointerp.config import NO_MODEL, WITH_MODEL, Config
from autointerp.errors import UserError

_PROVIDERS = (("explain", "provider"), ("score", "provider"), ("score", "embed_provider"))


def load_config(path: Path | None, overrides: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> Config:
    """The configuration of a TOML file over `base`, with `overrides` ("section.field" → value, None ignored) on top. What
    names another provider than what lies below it gives up that one's address and key variable. Who names a model for
    labels and no explainer means one that asks it, and who names top_k or threshold means adaptive scoring.

    Raises UserError that names the file, the key, what was found and what was expected.
    """
    file = _read_toml(path) if path else {}
    data = _merged(_without_other_servers(deepcopy(dict(base or {})), _providers(file)), file)
    given = {dotted: value for dotted, value in overrides.items() if value is not None}
    data = _without_other_servers(data, given)
    for dotted, value in given.items():
        _assign(data, dotted, value)
    _choose_explainer(data, file, given)
    _choose_adaptive(data, file, given)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        where = str(path) if path else "options"
        raise UserError("; ".join(_sentence(detail, where) for detail in error.errors())) from None


def parse_setting(text: str) -> tuple[str, Any]:
    """`section.field=value` of --set; the value is read as TOML, else as a plain string."""
    dotted, equals, value = text.partition("=")
    if not equals or not dotted.strip():
        raise UserError(f"--set {text!r}: expected section.field=value, such as --set sample.top=40")
    try:
        return dotted.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return dotted.strip(), value.strip()


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, expected a TOML file; for a run folder use --out {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None


def _providers(data: Mapping[str, Any]) -> dict[str, Any]:
    """ "section.field" → name, of the fields that name a provider."""
    fields = ((section, field) for section, field in _PROVIDERS if isinstance(data.get(section), dict))
    return {f"{section}.{field}": data[section][field] for section, field in fields if data[section].get(field)}


def _without_other_servers(data: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Where another provider is `given`, the address and key variable of the one before are given up: its server must not
    see the new one's key. A provider and its batches are one."""
    for name, provider in _providers(data).items():
        if name in given and _who_serves(given[name]) != _who_serves(provider):
            section, _, field = name.partition(".")
            its_own = [field.removesuffix("provider") + part for part in ("base_url", "api_key_env")]
            data = data | {section: {key: value for key, value in data[section].items() if key not in its_own}}
    return data


def _choose_explainer(data: dict[str, Any], file: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Where a model is named now, and no explainer, the one that asks none gives way."""
    named = _named(file, given, "explain")
    explain = data.get("explain")
    if not isinstance(explain, dict) or "explain.model" not in named or "explain.explainer" in named:
        return
    if explain.get("explainer", NO_MODEL) == NO_MODEL:
        explain["explainer"] = WITH_MODEL


def _choose_adaptive(data: dict[str, Any], file: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Who names now what ends a feature's scoring early means adaptive scoring. Raises UserError where it is ruled out at
    once."""
    named = _named(file, given, "score")
    score = data.get("score")
    goals = [name for name in ("top_k", "threshold") if f"score.{name}" in named]
    if not goals or not isinstance(score, dict) or score.get("adaptive", False) is not False:
        return
    if "score.adaptive" in named:
        raise UserError(f"score.{goals[0]} ends a feature's scoring early, which only adaptive scoring does; leave it out, or "
                        "--no-adaptive (score.adaptive = false)")  # fmt: skip
    score["adaptive"] = True


def _named(file: Mapping[str, Any], given: Mapping[str, Any], section: str) -> set[str]:
    """Fields that the file or the options name; those of the section in full."""
    inner = file.get(section)
    return set(given) | ({f"{section}.{key}" for key in inner} if isinstance(inner, dict) else set())


def _who_serves(provider: object) -> str:
    return str(provider).partition(":")[0].removesuffix("-batch")


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in over.items():
        inner = base.get(key)
        base[key] = _merged(dict(inner), value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return base


def _assign(data: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, field = dotted.split(".")
    for section in sections:
        inner = data.setdefault(section, {})
        if not isinstance(inner, dict):
            raise UserError(f"{dotted}: {section!r} is not a section of the configuration")
        data = inner
    data[field] = value


def _sentence(detail: ErrorDetails, where: str) -> str:
    location = [str(part) for part in detail["loc"]]
    name = ".".join(location)
    if detail["type"] == "extra_forbidden":
        known = _known_fields(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known keys: {', '.join(known)}"
        return f"{where}: unknown key {name!r}; {hint}"
    if any(part.endswith(("api_key_env", "base_url")) for part in location):
        return f"{where}: {name}: {detail['msg']}"  # what was given may hold a key
    return f"{where}: {name} = {detail['input']!r}: {detail['msg'].lower()}"


def _known_fields(sections: list[str]) -> list[str]:
    model: type[BaseModel] = Config
    for section in sections:
        annotation = model.model_fields[section].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return sorted(model.model_fields)
