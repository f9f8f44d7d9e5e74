"""Prompts are versioned files: prompts/NAME.j2, Jinja2, with a `system` and a `user` block.

    {% block system %} what does not change from one feature to the next {% endblock %}
    {% block user %} what does {% endblock %}

The blocks are rendered apart, so no value can move text from one to the other. A variable that is not given is an
error. A template in the user's folder comes before the packaged one of the same name; files that it includes or
extends are looked for in the same order and count in its hash.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta

from autointerp.errors import UserError
from autointerp.hashing import hex_hash
from autointerp.llm.types import Message
from autointerp.resources import packaged

BLOCKS = ("system", "user")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered prompt. `template_hash` is of the template's source, whatever the values."""

    system: str
    user: str
    template_hash: str

    @property
    def text(self) -> str:
        return f"{self.system}\n\n{self.user}"

    @property
    def messages(self) -> tuple[Message, Message]:
        return Message("system", self.system), Message("user", self.user)


def render(template: str, /, *, directory: Path | None = None, **values: Any) -> Rendered:
    """Render prompts/TEMPLATE.j2, from `directory` (the user's own prompts) if it has one, else as packaged.

    Raises UserError for a template that is missing, not valid, lacks a block or uses a variable that is not given.
    """
    environment, file = _environment(directory), _file(template)
    found = template_hash(template, directory=directory)
    source = environment.get_template(file)
    missing = [block for block in BLOCKS if block not in source.blocks]
    if missing:
        raise UserError(f"prompt {file} has no {' nor '.join(missing)} block; expected {{% block {missing[0]} %}}")
    try:
        context = source.new_context(values)
        system, user = ("".join(source.blocks[block](context)).strip() for block in BLOCKS)
    except jinja2.UndefinedError as error:
        raise UserError(f"prompt {file}: {error.message}; given are: {', '.join(sorted(values))}") from None
    return Rendered(system, user, found)


def template_hash(template: str, /, *, directory: Path | None = None) -> str:
    """Hash of the source of a template and of all that it includes, extends or imports."""
    return hex_hash(
        "template", *(f"{name}\n{source}" for name, source in sorted(_sources(template, directory).items()))
    )


def fenced(data: str) -> str:
    """`data` between two lines that hold a mark which `data` does not contain, and could not have foreseen.

    The mark is a hash of the data: the same data give the same prompt, and text that was written before cannot hold it.
    """
    mark = hex_hash("fence", data)
    while mark in data:
        mark = hex_hash("fence", mark, data)
    return f"<data {mark}>\n{data}\n</data {mark}>"


def _file(template: str) -> str:
    return f"{template}.j2"


@lru_cache
def _environment(directory: Path | None) -> jinja2.Environment:
    folders = [packaged("prompts")]
    if directory is not None:
        if not directory.is_dir():
            raise UserError(f"{directory}: no such folder of prompts")
        folders.insert(0, directory)
    # Plain text, so nothing is escaped here. A template is read once a run: its text and its hash cannot come apart.
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@lru_cache
def _sources(template: str, directory: Path | None) -> Mapping[str, str]:
    environment, found, pending = _environment(directory), {}, [_file(template)]
    while pending:
        name = pending.pop()
        try:
            found[name] = environment.loader.get_source(environment, name)[0] if environment.loader else ""
            referenced = meta.find_referenced_templates(environment.parse(found[name]))
        except jinja2.TemplateNotFound:
            raise UserError(f"no prompt {name}; there are: {', '.join(environment.list_templates())}") from None
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"prompt {name}, line {error.lineno}: {error.message}") from None
        for other in referenced:
            if other is None:
                raise UserError(f"prompt {name} includes a file by a computed name; name it in the template")
            if other not in found:
                pending.append(other)
    return found
