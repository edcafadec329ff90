"""From what was typed to typed settings, by hydra, and errors that say what to do."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from diffpolicy.config.compose import CONFIGS, HYDRA, as_settings, prepare, register
from diffpolicy.util.errors import Interrupted

MENDABLE = (ValueError, OSError, KeyError, ImportError, RuntimeError, OmegaConfBaseException, HydraException)
"""What a user can mend: printed in one paragraph. Anything else is a defect and keeps its traceback."""


def execute(name: str, command: ModuleType, arguments: Sequence[str]) -> None:
    """Run the command `name` with the settings that `arguments` say; exit with 2 if they are refused.

    With `-m` every combination is run; one that is refused does not keep the others from running.
    """
    os.environ["MPLBACKEND"] = "agg"  # commands draw into files; a notebook's backend may not be importable here
    refused: list[str] = []

    def job(config: DictConfig) -> None:
        sweep = HydraConfig.get().mode is RunMode.MULTIRUN
        try:
            command.run(as_settings(config, HydraConfig.get().overrides.task))
        except Interrupted as error:
            print(error, file=sys.stderr)
            sys.exit(error.code)  # here, since hydra would take any other exception for a defect
        except SystemExit as stop:  # the work is done, and the command says that something is wrong with it
            if not (sweep and stop.code):
                raise
            refused.append(" ".join(HydraConfig.get().overrides.task))
        except MENDABLE as error:
            if not _mendable(error):
                raise
            print(f"diffpolicy {name}: {says(error)}", file=sys.stderr)
            if not sweep:
                sys.exit(2)
            refused.append(" ".join(HydraConfig.get().overrides.task))

    try:
        overrides = prepare(name, command.SCHEMA, command.GROUPS, _positional(command, arguments))
        register(name, command.SCHEMA)
        _hydra(name, job, overrides, f"pkg://{CONFIGS}" if command.GROUPS else None)
    except KeyboardInterrupt:
        print(f"\ndiffpolicy {name}: interrupted", file=sys.stderr)
        sys.exit(130)
    except MENDABLE as error:
        if not _mendable(error):
            raise
        print(f"diffpolicy {name}: {says(error)}", file=sys.stderr)
        sys.exit(2)
    if refused:
        print(f"diffpolicy {name}: {len(refused)} refused: " + "; ".join(refused), file=sys.stderr)
        sys.exit(2)


def says(error: BaseException) -> str:
    """Return an error's message for the terminal."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error  # str() would quote it
    return f"{type(error).__name__}: {text}" if not isinstance(error, ValueError) else str(text)


def _mendable(error: BaseException) -> bool:
    """A bare RuntimeError is torch's, and a defect."""
    return type(error) is not RuntimeError and not os.environ.get("HYDRA_FULL_ERROR")


def _positional(command: ModuleType, arguments: Sequence[str]) -> list[str]:
    """Arguments without a "=" stand for the settings that the command names in POSITIONAL, in their order.

    "--strict" stands for "strict=true", and so does the name of any other setting that is off by default.
    """
    names = iter(command.POSITIONAL)
    flags = {f"--{field.name}" for field in dataclasses.fields(command.SCHEMA) if field.default is False}
    found = []
    for argument in arguments:
        if argument in flags:
            found.append(f"{argument.removeprefix('--')}=true")
            continue
        name = None if "=" in argument or argument.startswith("-") else next(names, None)
        found.append(argument if name is None else f"{name}={argument}")
    return found


def _hydra(name: str, job: Callable[[DictConfig], Any], overrides: Sequence[str], configs: str | None) -> None:
    """Hand over to hydra, which reads sys.argv; its own full-error switch leaves errors to us."""
    argv, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    first = next((at for at, one in enumerate(overrides) if "=" in one and not one.startswith("-")), len(overrides))
    sys.argv = [f"diffpolicy {name}", *overrides[:first], *HYDRA, *overrides[first:]]  # the user's own come last
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(version_base="1.3", config_path=configs, config_name=name)(_unset(job, full))()
    finally:
        sys.argv = argv
        _restore(full)


def _unset(job: Callable[[DictConfig], Any], full: str | None) -> Callable[[DictConfig], Any]:
    def inner(config: DictConfig) -> None:
        _restore(full)
        job(config)

    return inner


def _restore(full: str | None) -> None:
    if full is None:
        os.environ.pop("HYDRA_FULL_ERROR", None)
    else:
        os.environ["HYDRA_FULL_ERROR"] = full
