"""What the scripts share: a hydra command whose schema is a dataclass and whose errors say what to do."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hydra
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffpolicy.util.names import suggest

_GROUPS = ("task", "method", "net", "encoder")
_OPEN = ("env.options", "method.path", "method.solver_options", "dataset.normalize", "solver_options", "path")


def command(name: str, schema: type, run: Callable[[Any], None]) -> Callable[[], None]:
    """The console command `name`: configs/`name`.yaml over the dataclass `schema`, handed to `run` as one.

    What a user can mend (a wrong name, a missing file) is printed in one paragraph and exits with 2; anything
    else is a defect and keeps its traceback, as does everything with HYDRA_FULL_ERROR=1.
    """
    ConfigStore.instance().store(name=f"{name}_schema", node=schema)

    @hydra.main(version_base="1.3", config_path="pkg://diffpolicy.configs", config_name=name)
    def inner(config: DictConfig) -> None:
        with mendable(name):
            run(OmegaConf.to_object(config))

    def main() -> None:
        if unknown := _unknown_key(name, schema, sys.argv[1:]):
            print(f"{name}: {unknown}; `--cfg job` prints all of them", file=sys.stderr)
            sys.exit(2)
        sys.argv[1:] = _opened(schema, sys.argv[1:])
        inner()

    return main


@contextmanager
def mendable(name: str) -> Iterator[None]:
    """What a user of the command `name` can mend is printed, and the process exits with 2; see `command`."""
    try:
        yield
    except (ValueError, OSError, KeyError, RuntimeError, OmegaConfBaseException) as error:
        if type(error) is RuntimeError or os.environ.get("HYDRA_FULL_ERROR"):
            raise
        says = error.args[0] if isinstance(error, KeyError) else error  # str() would quote it
        print(f"{name}: {type(error).__name__}: {says}", file=sys.stderr)
        sys.exit(2)


def compose(name: str, schema: type, overrides: Sequence[str]) -> Any:
    """The settings that the command `name` would have with these arguments, as an instance of its `schema`.

    Raises:
        ValueError: what the command would refuse: an unknown key, with the near ones, or a value of another type.
    """
    try:
        with _configs():
            return OmegaConf.to_object(hydra.compose(name, _opened(schema, overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        says = _unknown_key(name, schema, overrides) or error
        raise ValueError(f"diffpolicy-{name.replace('_', '-')} {' '.join(overrides)}: {says}") from None


@contextmanager
def _configs() -> Iterator[None]:
    """Our configs to compose from, inside a hydra job or outside."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_module("diffpolicy.configs", version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = running


def pick_device(name: str) -> torch.device:
    """The device called "auto" (a GPU where there is one), "cpu", "cuda" …

    Raises:
        ValueError: there is none of that name here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # how torch says so depends on how it was built
        says = str(error).splitlines()[0]
        raise ValueError(f"device={name} is not to be had here ({says}): device=auto takes what there is") from None


def _unknown_key(name: str, schema: type, arguments: Sequence[str]) -> str | None:
    """What is wrong with an unknown key, with the near ones, which hydra does not name. All else is left to hydra."""
    overrides = [argument for argument in arguments if re.match(r"[A-Za-z_][\w./]*=", argument)]
    try:
        with _configs():
            composed = hydra.compose(name, [o for o in overrides if o.split("=")[0] in _GROUPS])
    except HydraException:
        return None
    known = set(_keys(OmegaConf.to_container(composed))) | set(_GROUPS)
    for override in overrides:
        key = override.split("=")[0]
        if not (key.startswith(("hydra.", "hydra/")) or key in known or _is_open(override, schema)):
            return f"unknown key {key!r}{suggest(key, known)}"
    return None


def _opened(schema: type, arguments: Sequence[str]) -> list[str]:
    """The arguments, with "++" where they go into a map that takes any key: it is closed to hydra otherwise."""
    return [f"++{argument}" if _is_open(argument, schema) else argument for argument in arguments]


def _is_open(override: str, schema: type) -> bool:
    """Whether an override goes into a map of this command that takes any key."""
    parent = _parent(override)
    return parent in _OPEN and parent.split(".")[0] in {field.name for field in dataclasses.fields(schema)}


def _parent(override: str) -> str:
    """ "a.b" of "a.b.c=1"."""
    return override.partition("=")[0].rpartition(".")[0]


def _keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    own = [f"{prefix}{key}" for key in node]
    return own + [deep for key, value in node.items() for deep in _keys(value, f"{prefix}{key}.")]
