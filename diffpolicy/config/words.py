"""Settings as they are typed: words that the shell and hydra read back as the values they were."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from diffpolicy.config.schema import plain
from diffpolicy.config.sections import EnvConfig

_PLAIN = re.compile(
    r"(?!(?:inf|nan)$)[a-z_][\w./:-]*", re.IGNORECASE | re.ASCII
)  # to hydra a word, unless YAML's own


def words(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return settings as the words of a command line: "env.id=… env.fresh=true".

    Args:
        settings: plain data by name; what is below a mapping gets words of its own.
        prefix: of all names, such as "env.".
    """
    return [shlex.quote(f"{prefix}{name}={typed_value(value)}") for name, value in _dotted(settings)]


def env_words(env: Mapping[str, Any]) -> list[str]:
    """Return the settings of an environment that are not the defaults, as the words of a command line.

    Args:
        env: plain data of an `EnvConfig`, which in earlier releases had "options" for `kwargs`; other entries, as
            evaluation.json has, are left out.
    """
    usual = plain(EnvConfig())
    named = {"kwargs" if name == "options" else name: value for name, value in env.items()}
    return words({name: value for name, value in named.items() if name in usual and value != usual[name]}, "env.")


def typed_value(value: Any) -> str:
    """Return plain data as hydra reads it; strings are quoted where they would be read as something else."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{typed_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(typed_value, value)) + "]"
    if isinstance(value, str) and (not _PLAIN.fullmatch(value) or yaml.safe_load(value) != value):
        quote = '"' if "'" in value else "'"
        escaped = re.sub(rf"(\\*)({quote}|$)", lambda found: 2 * found[1] + ("\\" + quote if found[2] else ""), value)
        return f"{quote}{escaped}{quote}"
    return str(value)


def _dotted(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{key}", one) for key, one in value.items())
        else:
            yield name, value
