"""Settings as they are typed -> typed settings, from the command line or from Python."""

from __future__ import annotations

import functools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffpolicy import registry
from diffpolicy.config.run import RunConfig
from diffpolicy.config.schema import NOT_TYPED, array_maps, note_named, open_maps, paths
from diffpolicy.util.errors import require
from diffpolicy.util.names import unknown

GROUPS = ("task", "method", "net", "encoder", "text")
"""Config groups of `train`, see configs/."""

CONFIGS = "diffpolicy.configs"
"""The module that holds the groups."""

HYDRA = (
    "hydra/job_logging=disabled",
    "hydra/hydra_logging=disabled",
    "hydra.run.dir=.",
    "hydra.sweep.dir=.",
    "hydra.sweep.subdir=.",
    "hydra.output_subdir=null",
    "hydra.job.chdir=false",
)
"""What every command tells hydra: leave folders and logging alone."""

_RENAMED = {"env.options": "env.kwargs"}

_OVERRIDE = re.compile(r"(?P<sign>\+\+|\+|~|)(?P<key>[A-Za-z_][\w./@:-]*)(?P<rest>=.*|)", re.DOTALL)


def compose(settings: Sequence[str] = (), name: str = "train", schema: type = RunConfig) -> Any:
    """Return the settings that the command `name` has with these arguments, `["task=detour", "seed=1"]` for example.

    Raises:
        ValueError: an unknown setting, with the close ones, or a value of another type.
    """
    groups = GROUPS if name == "train" else ()
    register(name, schema)
    overrides = prepare(name, schema, groups, settings)
    try:
        with _configs(groups):
            return as_settings(hydra.compose(name, overrides), overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"{' '.join(settings)}: {error}") from None


def as_settings(config: DictConfig, overrides: Sequence[str]) -> Any:
    """Return a config as typed settings, whose sections know which of theirs the overrides name."""
    settings, named = OmegaConf.to_object(config), defaultdict[str, set[str]](set)
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        section, _, name = override.key_or_group.partition(".")
        value = None if name else override.value()
        named[section] |= {name.partition(".")[0]} if name else set(value) if isinstance(value, dict) else set()
    for section, names in named.items():
        if is_dataclass(one := vars(settings).get(section)):
            note_named(one, names)
    return settings


def register(name: str, schema: type) -> None:
    """Make a schema known to hydra: as the config of the command, and for `train` as what its config builds on."""
    ConfigStore.instance().store(name="train_schema" if name == "train" else name, node=schema)


def prepare(name: str, schema: type, groups: Sequence[str], settings: Sequence[str]) -> list[str]:
    """Return the arguments for hydra: unknown keys refused, paths quoted, new keys allowed where any key may be.

    Raises:
        ValueError: an unknown key, with the close ones.
    """
    multirun = bool({"-m", "--multirun"} & set(settings))
    settings, plugged = _plugged(groups, settings)
    chosen = (one for one in settings if one.partition("=")[0].lstrip("~") in groups and "," not in one)
    composed = _composed(name, schema, tuple(groups), tuple(chosen))
    known, open_, literal = _known(composed, groups), open_maps(schema) | plugged, paths(schema)
    by_array = array_maps(schema)
    # What other choices set below a plugged group, they set for this project's own.
    prepared = [f"~{group}.{key}" for group in sorted(plugged) for key in composed[group]]
    for argument in settings:
        if entry := _entry_of(argument, by_array, multirun):
            prepared.append(entry)
            continue
        found = _OVERRIDE.fullmatch(argument)
        if not found or not (found["rest"] or found["sign"]):  # such as the word behind --cfg
            prepared.append(argument)
            continue
        sign, key, rest = found["sign"], found["key"].partition("@")[0], found["rest"]
        below = key.rpartition(".")[0] in open_
        if not (key.startswith(("hydra.", "hydra/")) or key in known or below):
            for old, new in _RENAMED.items():
                require(not f"{key}.".startswith(f"{old}."), f"{key} is now {key.replace(old, new, 1)}")
            raise ValueError(unknown("setting", key, sorted(known)))
        if key not in groups and rest:
            _check_form(_at(composed, key), key, rest[1:].strip())
        if key in literal and rest:
            rest = "=" + _quoted(rest[1:], multirun)
        prepared.append(f"{'++' if below and not sign else sign}{found['key']}{rest}")
    return prepared


def _at(composed: dict[str, Any], key: str) -> Any:
    """The value of a setting in a config; None where there is none."""
    found: Any = composed
    for name in key.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _check_form(usual: Any, key: str, value: str) -> None:
    """Refuse a list or a mapping that is typed as something else, or a list without its end."""
    says = f"{key}={value}"
    if value in ("", "null") or value.startswith("$"):
        return
    if isinstance(usual, list):
        require(value.startswith("["), says, "a list", f'write "{key}=[{value}]"')
        cure = f"put quotes around the whole setting: '{says}]'"
        require(value.endswith("]"), says, "a list, with ] at its end", cure)
    if isinstance(usual, dict):
        require(value.startswith("{"), says, "a value by name", f"write {key}.NAME={value}")


def _entry_of(argument: str, maps: Iterable[str], multirun: bool) -> str | None:
    """A setting by the name of an array that hydra's grammar does not know, as a mapping that is merged; else None.

    Hydra's names have no brackets, its dots mean sections, and its bare values have no brackets either.
    """
    name, assigned, value = argument.lstrip("+").partition("=")
    where = next((one for one in maps if name.startswith(f"{one}.")), None)
    if where is None or not assigned:
        return None
    key = name.removeprefix(f"{where}.")
    if re.fullmatch(r"[\w-]+", key) and "[" not in value:
        return None
    key = re.sub(r"([\[\]:])", r"\\\1", key)
    values = value.split(",") if multirun else [value]
    return f"++{where}=" + ",".join(f"{{{key}:{_quoted(one, False)}}}" for one in values)


def _plugged(groups: Sequence[str], settings: Sequence[str]) -> tuple[list[str], set[str]]:
    """The settings with choices of installed packages written out, and the groups in which there are any.

    `net=theirs` has no file in configs/net: the group is left out, its section holds the name and any option.
    """
    written, plugged = [], set()
    for argument in settings:
        group, _, choice = argument.partition("=")
        if group in groups and choice in registry.choices(group):
            written += [f"~{group}", f"{group}.name={choice}"]
            plugged.add(group)
        else:
            written.append(argument)
    return written, plugged


def _quoted(value: str, multirun: bool) -> str:
    """A path as a quoted string of hydra's grammar, `~` expanded; in a sweep, commas separate several."""
    if value == "null":
        return value
    parts = value.split(",") if multirun else [value]
    return ",".join("'" + os.path.expanduser(part).replace("'", r"\'") + "'" for part in parts)


@functools.lru_cache
def _composed(name: str, schema: type, groups: tuple[str, ...], chosen: tuple[str, ...]) -> dict[str, Any]:
    """The config with the chosen groups and nothing else."""
    register(name, schema)
    try:
        with _configs(groups):
            return OmegaConf.to_container(hydra.compose(name, list(chosen)))
    except HydraException as error:
        raise ValueError(_plain_message(error)) from None


def _known(composed: dict[str, Any], groups: Sequence[str]) -> set[str]:
    """All settings that exist in a config."""
    return {key for key in _keys(composed) if key.partition(".")[0] not in NOT_TYPED} | set(groups)


def _plain_message(error: HydraException) -> str:
    text = str(error).strip()
    missing = re.search(r"Could not find '(\w+)/([^']+)'\s*(?:Available options in '\w+':\n((?:\t.*\n)*))?", text)
    if not missing:
        return text
    group, choice, choices = missing.groups()
    return unknown(group, choice, sorted([*(choices or "").split(), *registry.choices(group)]))


@contextmanager
def _configs(groups: Sequence[str]) -> Iterator[None]:
    """Our configs to compose from, inside a hydra job or outside.

    A command without groups sees none of them: its setting `method` is no choice of a group.
    """
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    opened = hydra.initialize_config_module(CONFIGS, version_base="1.3") if groups else _no_configs()
    try:
        with opened:
            yield
    finally:
        GlobalHydra.instance().hydra = running


def _no_configs() -> Any:
    return hydra.initialize(config_path=None, version_base="1.3")


def _keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    own = [f"{prefix}{key}" for key in node]
    return own + [deep for key, value in node.items() for deep in _keys(value, f"{prefix}{key}.")]
