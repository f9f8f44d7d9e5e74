"""SAELens' registry of published SAEs: `saelens:RELEASE/ID` stands for a folder on the hub.

The registry is one YAML file inside the package sae-lens (the extra `saelens`). It is read from where the package is
installed, and the package is not imported, which would take seconds; the SAE is then read by the loaders here. Of what
the registry says of an SAE, its corrections of published configs count, because SAELens' users see the SAEs with them.
"""

import difflib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from autointerp.errors import DataError, UserError
from autointerp.sae.configs import as_number, one_line
from autointerp.sae.hub import HubId

PREFIX = "saelens:"
_PACKAGE, _FILE = "sae_lens", "pretrained_saes.yaml"
_INSTALL = "pip install 'autointerp[saelens]'"
# How SAELens converts a release; None is its own format. The others need arithmetic or layouts that are not read here.
_READ_HERE = (
    None, "sae_lens", "gemma_2", "gemma_2_transcoder", "gemma_3", "dictionary_learning_1", "qwen_scope", "llama_scope",
    "goodfire", "deepseek_r1", "sparsify", "mwhanna_transcoder", "mntss_clt_layer_transcoder",
)  # fmt: skip
_RELEASE = re.compile(r"^([^\s#-][^\n]*?):[ \t]*$", re.MULTILINE)
_HOOK = re.compile(r"(blocks\.\d+\.[a-z]\w*?(?:\.[a-z]\w*?)*)(?:__.*)?")


@dataclass(frozen=True, slots=True)
class Entry:
    """One SAE of the registry: where it is, the settings that replace its config's, the factor on its inputs if the
    registry has one, and the model and hookpoint that the registry knows."""

    where: HubId
    overrides: Mapping[str, Any]
    input_scale: float | None
    model: str | None
    hook: str | None


def is_registry_id(text: str) -> bool:
    return text.startswith(PREFIX) and not Path(text).exists()


def find(text: str) -> Entry:
    """The SAE that `saelens:RELEASE/ID` means. Raises UserError, with the nearest names, or DataError."""
    release, _, sae_id = text.removeprefix(PREFIX).partition("/")
    path = _registry()
    blocks = _blocks(path)
    if release not in blocks:
        raise UserError(f"{text}: SAELens' registry has no release {release!r}; {_nearest(release, list(blocks))}")
    found = _release(path, release)
    kind = found.get("conversion_func")
    if kind not in _READ_HERE:
        raise UserError(f"{text}: SAELens converts this release by {kind!r}, which is not read here")
    saes = {str(one["id"]): one for one in found["saes"]}
    if sae_id not in saes:
        raise UserError(f"{text}: the release {release} has no SAE {sae_id!r}; {_nearest(sae_id, list(saes))}")
    inside = str(saes[sae_id]["path"])
    if kind == "mntss_clt_layer_transcoder":
        inside = f"W_enc_{inside}.safetensors"  # the path is the number of the layer
    hook = _HOOK.fullmatch(sae_id)
    return Entry(
        where=HubId(found["repo_id"], inside, None),
        overrides=found.get("config_overrides") or {},
        input_scale=as_number(saes[sae_id].get("norm_scaling_factor")),
        model=found.get("model"),
        hook=hook.group(1) if hook else None,
    )


def _registry() -> Path:
    """The registry's file, found without importing the package."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"saelens:… needs SAELens' registry, which is not installed: {_INSTALL}")
    path = Path(spec.submodule_search_locations[0]) / _FILE
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; this version of sae-lens keeps no registry there: {_INSTALL}")
    return path


@cache
def _blocks(path: Path) -> dict[str, str]:
    """The text of each release. The file has 1.5 MB, and parsing all of it would take seconds."""
    text = path.read_text(encoding="utf-8")
    heads = list(_RELEASE.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return {head.group(1).strip("'\""): text[head.start() : end] for head, end in zip(heads, ends, strict=True)}


def _release(path: Path, name: str) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    try:
        found = yaml.load(_blocks(path)[name], Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))[name]
        is_sound = isinstance(found["repo_id"], str) and all("id" in one and "path" in one for one in found["saes"])
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(f"{path}: {name}: cannot be read: {one_line(error)}") from error
    if not is_sound:
        raise DataError(f"{path}: {name}: expected repo_id and saes, each with id and path")
    return dict(found)


def _nearest(name: str, names: list[str], most: int = 6) -> str:
    near = difflib.get_close_matches(name, names, n=most, cutoff=0.4) if name else []
    shown = ", ".join(near or sorted(names)[:most])
    return f"the nearest are {shown}" if near else f"it has {shown}, … ({len(names)} in all)"
