"""Help texts, made of the commands' own docstrings and of their settings' docstrings."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from diffpolicy import registry
from diffpolicy.config.schema import NOT_TYPED, section_of

_OVERVIEW = """\
diffpolicy: from recorded demonstrations to a robot that acts.

Usage: diffpolicy <command> setting=value …

{commands}

`diffpolicy <command> --help` lists the settings. `--cfg job` prints the resolved settings instead of running,
`-m setting=a,b` runs every combination. HYDRA_FULL_ERROR=1 shows the traceback of an error.
"""


def overview(commands: Sequence[str]) -> str:
    """Return the list of commands with a line each."""
    modules = {name: importlib.import_module(f"diffpolicy.cli.{name.replace('-', '_')}") for name in commands}
    lines = [f"  {name:<16}{_summary(module)}" for name, module in modules.items()]
    return _OVERVIEW.format(commands="\n".join(lines)).rstrip()


def command_help(name: str, command: ModuleType) -> str:
    """Return the usage of one command: docstring, choices of its groups, and every setting with its default."""
    parts = [f"diffpolicy {name}: {inspect.cleandoc(command.__doc__ or '')}", "Settings, given as setting=value:"]
    parts.append("\n".join(_settings(command.SCHEMA)))
    if groups := list(_groups(command)):
        parts.insert(1, "Choices, given as group=choice:\n\n" + "\n".join(groups))
    return "\n\n".join(parts)


def _summary(command: ModuleType) -> str:
    return inspect.cleandoc(command.__doc__ or "").splitlines()[0]


def _groups(command: ModuleType) -> Iterator[str]:
    if not command.GROUPS:
        return
    (folder,) = importlib.import_module("diffpolicy.configs").__path__
    for group in command.GROUPS:
        files = (file.stem for file in (Path(folder) / group).glob("*.yaml"))
        choices = sorted({*files, *registry.choices(group)})
        yield textwrap.fill(", ".join(choices), 100, initial_indent=f"  {group:<10}", subsequent_indent=" " * 12)


def _settings(schema: type, prefix: str = "") -> Iterator[str]:
    documented = _entries(schema)
    for field in dataclasses.fields(schema):
        if f"{prefix}{field.name}" in NOT_TYPED:
            continue
        section = section_of(schema, field.name)
        if section is not None:
            yield f"  {prefix}{field.name}.*"
            yield from _settings(section, f"{prefix}{field.name}.")
            continue
        head = f"  {prefix}{field.name}={_default(field)}"
        text = documented.get(field.name, "")
        yield (
            head
            if not text
            else textwrap.fill(f"{head.ljust(38)}  {text}", 110, subsequent_indent=" " * 40, break_long_words=False)
        )


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    else:
        value = field.default_factory() if field.default_factory is not dataclasses.MISSING else "???"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _entries(schema: type) -> dict[str, str]:
    """Setting -> its entry in the section Args of the docstring of the schema, or of one that it extends."""
    docs = [_args(inspect.cleandoc(one.__doc__ or "")) for one in reversed(schema.__mro__)]
    found = [re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w+: |\Z)", doc, re.MULTILINE | re.DOTALL) for doc in docs]
    return {name: " ".join(text.split()) for entries in found for name, text in entries}


def _args(doc: str) -> str:
    return doc.partition("Args:\n")[2]
