"""What callers from Python may give in place of a section: nothing, a mapping, or a name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffpolicy.config.schema import note_named, typed
from diffpolicy.config.sections import EnvConfig, ExecutionConfig


def execution_of(given: Mapping[str, Any] | ExecutionConfig | None) -> ExecutionConfig:
    """Return the section `execution` of what is given.

    Raises:
        ValueError: unknown settings.
    """
    return given if isinstance(given, ExecutionConfig) else typed(ExecutionConfig, given or {}, "execution")


def env_of(given: EnvConfig | str | Mapping[str, Any] | None) -> EnvConfig:
    """Return the section `env` of what is given; a text is an id.

    Raises:
        ValueError: unknown settings.
    """
    if isinstance(given, EnvConfig):
        return given
    if isinstance(given, str):
        return EnvConfig(given)
    given = {key: str(value) if isinstance(value, Path) else value for key, value in (given or {}).items()}
    asked = typed(EnvConfig, given, "env")
    note_named(asked, given)
    return asked
