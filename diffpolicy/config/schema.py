"""Dataclasses as the schema of configs: which fields affect results, plain data and back, and differences."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING as NO_DEFAULT
from typing import Any, TypeVar

from diffpolicy.util.errors import require
from diffpolicy.util.names import unknown

MISSING = "???"
"""The value of a setting that has to be given; OmegaConf's own mark."""

NOT_TYPED = ("found", "version")
"""Fields of a run's config that training writes and nobody sets."""

_FREE, _PATH, _OPEN, _ARRAYS = "affects_result", "path", "open", "arrays"
_NAMED = "_named"  # an attribute of a section, and none of its settings

Schema = TypeVar("Schema")


def free(default: Any = NO_DEFAULT, *, default_factory: Callable[[], Any] | None = None) -> Any:
    """Return a dataclass field that affects no number of a result: where things are, how fast, what is logged.

    A run may be resumed with other values of such fields.
    """
    if default_factory is not None:
        return dataclasses.field(default_factory=default_factory, metadata={_FREE: False})
    return dataclasses.field(default=default, metadata={_FREE: False})


def path_to(default: Any, *, affects_result: bool = True) -> Any:
    """Return a dataclass field for a path: on the command line its value is used literally, and `~` expands."""
    return dataclasses.field(default=default, metadata={_PATH: True, _FREE: affects_result})


def as_typed(default: Any) -> Any:
    """Return a dataclass field whose value on the command line is one word, used literally, commas included."""
    return path_to(default)


def any_key(open_below: tuple[str, ...] | None = None, default_factory: Callable[[], Any] = dict) -> Any:
    """Return a dataclass field for a mapping with any keys; with `open_below` only below these of its keys."""
    return dataclasses.field(default_factory=default_factory, metadata={_OPEN: open_below or ("",)})


def by_array() -> Any:
    """Return a dataclass field for a mapping by names of arrays, or of parts of them such as "action[3:6]"."""
    return dataclasses.field(default_factory=dict, metadata={_OPEN: ("",), _ARRAYS: True})


def array_maps(schema: type) -> set[str]:
    """Return the dotted names of all mappings of a schema that are by names of arrays."""
    return {name for name, field in _fields(schema) if field.metadata.get(_ARRAYS)}


def paths(schema: type, prefix: str = "") -> set[str]:
    """Return the dotted names of all settings of a schema that are paths."""
    return {name for name, field in _fields(schema, prefix) if field.metadata.get(_PATH)}


def open_maps(schema: type) -> set[str]:
    """Return the dotted names of all mappings of a schema in which any key may be set."""
    found = set()
    for name, field in _fields(schema):
        found |= {f"{name}.{key}" if key else name for key in field.metadata.get(_OPEN, ())}
    return found


def _fields(schema: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """All fields of a schema and of its sections, by dotted name."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        yield f"{prefix}{field.name}", field
        if section := _section(hints[field.name]):
            yield from _fields(section, f"{prefix}{field.name}.")


def plain(config: Any) -> dict[str, Any]:
    """Return a config as mappings, lists, strings, numbers and None, ready for YAML or JSON."""
    return _plain(dataclasses.asdict(config))


def effective(config: Any) -> dict[str, Any]:
    """Return a config as plain data without the settings that affect no result."""
    values = {field.name: vars(config)[field.name] for field in dataclasses.fields(config) if not _is_free(field)}
    return {name: effective(one) if dataclasses.is_dataclass(one) else _plain(one) for name, one in values.items()}


def _is_free(field: dataclasses.Field[Any]) -> bool:
    return not field.metadata.get(_FREE, True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def typed(schema: type[Schema], values: Mapping[str, Any], where: str = "", usual: Schema | None = None) -> Schema:
    """Return the dataclass `schema` filled with `values`; what is not given keeps its default.

    Args:
        schema: of a section, or of all settings.
        values: by name, sections as mappings.
        where: the section's dotted name, for messages.
        usual: what keeps what is not given; None takes the schema's defaults.

    Raises:
        ValueError: a name that the schema does not have, with the close ones, or a section that is no mapping.
    """
    hints = typing.get_type_hints(schema)
    known = {field.name: field for field in dataclasses.fields(schema)}
    given = {}
    for name, value in values.items():
        path = f"{where}.{name}" if where else str(name)
        if name not in known:
            raise ValueError(unknown("setting", path, [f"{where}.{one}" if where else one for one in sorted(known)]))
        section = _section(hints[name])
        if section is not None and value is not None:
            require(isinstance(value, Mapping), f"{path}={value!r}", "a mapping of settings")
            default = known[name].default_factory if usual is None else None
            own = vars(usual)[name] if usual is not None else NO_DEFAULT if default is NO_DEFAULT else default()
            value = typed(section, value, path, own if isinstance(own, section) else None)
        given[name] = value
    return schema(**given) if usual is None else dataclasses.replace(usual, **given)


def note_named(section: Any, names: Iterable[str]) -> None:
    """Note which settings of a section somebody named, at whatever value; copies by `replace` do not keep it."""
    vars(section)[_NAMED] = frozenset(names)


def asked_for(section: Any) -> set[str]:
    """Return the settings of a section that were named, and those that are not at their defaults."""
    usual = vars(type(section)())
    differ = {field.name for field in dataclasses.fields(section) if vars(section)[field.name] != usual[field.name]}
    return differ | vars(section).get(_NAMED, frozenset())


def section_of(schema: type, name: str) -> type | None:
    """Return the dataclass of a field that is a section, or None."""
    return _section(typing.get_type_hints(schema)[name])


def _section(hint: Any) -> type | None:
    """The dataclass that a type hint names, alone or with None."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((one for one in options if isinstance(one, type) and dataclasses.is_dataclass(one)), None)


def changes(before: Any, now: Any, prefix: str = "") -> list[str]:
    """Return a line for each setting that affects results and differs between two configs of one schema."""
    found = []
    for field in dataclasses.fields(now):
        if _is_free(field):
            continue
        old, new = vars(before)[field.name], vars(now)[field.name]
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(new) and dataclasses.is_dataclass(old):
            found += changes(old, new, f"{name}.")
        elif isinstance(old, Mapping) and isinstance(new, Mapping):
            keys = sorted({*old, *new})
            pairs = ((key, old.get(key), new.get(key)) for key in keys)
            found += [f"{name}.{k}: was {a!r}, now {b!r}" for k, a, b in pairs if _plain(a) != _plain(b)]
        elif _plain(old) != _plain(new):
            found.append(f"{name}: was {old!r}, now {new!r}")
    return found
