"""What the scripts share: a hydra command whose schema is a dataclass and whose errors say what to do."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffpolicy.registry import near


def command(name: str, schema: type, run: Callable[[Any], None]) -> Callable[[], None]:
    """The console command `name`: configs/`name`.yaml over the dataclass `schema`, handed to `run` as one.

    What a user can mend (a wrong name, a missing file) is printed in one paragraph and exits with 2; anything
    else is a defect and keeps its traceback.
    """
    ConfigStore.instance().store(name="schema", node=schema)

    @hydra.main(version_base="1.3", config_path="pkg://diffpolicy.configs", config_name=name)
    def inner(config: DictConfig) -> None:
        try:
            run(OmegaConf.to_object(config))
        except (ValueError, OSError, KeyError, RuntimeError, OmegaConfBaseException) as error:
            if type(error) in (KeyError, RuntimeError):
                raise
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            sys.exit(2)

    def main() -> None:
        _check_overrides(name, sys.argv[1:])
        inner()

    return main


def _check_overrides(name: str, arguments: list[str]) -> None:
    """Refuse an unknown key with the near ones, which hydra does not name. All else is left to hydra."""
    overrides = [argument for argument in arguments if re.match(r"[A-Za-z_][\w./]*=", argument)]
    try:
        with hydra.initialize_config_module("diffpolicy.configs", version_base="1.3"):
            groups = [o for o in overrides if o.split("=")[0] in ("task", "method", "net")]
            composed = hydra.compose(name, groups)
    except HydraException:
        return
    known = set(_keys(OmegaConf.to_container(composed))) | {"task", "method", "net"}
    for override in overrides:
        key = override.split("=")[0]
        if key.startswith("hydra.") or key in known or any(_is_open(composed, key)):
            continue
        print(f"{name}: unknown key {key!r}{near(key, known)}; `--cfg job` prints all of them", file=sys.stderr)
        sys.exit(2)


def _is_open(config: DictConfig, key: str) -> list[bool]:
    """[True] where `key` lies in a map that takes any key, such as an environment's options."""
    *parents, _ = key.split(".")
    parent = ".".join(parents)
    return [parent in ("env.options", "method.solver_options", "dataset.normalize", "solver_options")]


def _keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    own = [f"{prefix}{key}" for key in node]
    return own + [deep for key, value in node.items() for deep in _keys(value, f"{prefix}{key}.")]
