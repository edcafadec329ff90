"""What a check found: sentences for people, values for programs, and settings that the environment needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from diffpolicy.config.words import words
from diffpolicy.evaluation.contract import BrokenEnvironment, said


@dataclass
class Findings:
    """What one check found.

    Args:
        title: of the check, in a few words.
        facts: sentences that say what the environment is like.
        notes: sentences about what a user should know, though it works.
        broken: sentences about what does not work.
        values: the facts for programs, as plain data.
        settings: of `EnvConfig`, which the environment needs.
        evaluation: settings of `diffpolicy evaluate` that fit it.
    """

    title: str
    facts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return the check as lines for the terminal."""
        marked = [*self.facts, *(f"note: {one}" for one in self.notes), *(f"BROKEN: {one}" for one in self.broken)]
        return [self.title, *(f"  {one}" for one in marked)]


@dataclass(frozen=True)
class Report:
    """What all checks of an environment found.

    Args:
        name: of the environment.
        given: settings of `EnvConfig` that the checks were made with.
        checks: in their order.
    """

    name: str
    given: Mapping[str, Any]
    checks: tuple[Findings, ...]

    @property
    def broken(self) -> list[str]:
        """Everything that does not work."""
        return [one for check in self.checks for one in check.broken]

    @property
    def notes(self) -> list[str]:
        """Everything that a user should know."""
        return [one for check in self.checks for one in check.notes]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of `EnvConfig` that fit: those given, and those that the checks found to be needed."""
        found = dict(self.given)
        for check in self.checks:
            found |= check.settings
        return found

    @property
    def evaluation(self) -> dict[str, Any]:
        """The settings of `diffpolicy evaluate` that fit."""
        found: dict[str, Any] = {}
        for check in self.checks:
            found |= check.evaluation
        return found

    def plain(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "env": self.name,
            "broken": self.broken,
            "notes": self.notes,
            "settings": self.settings,
            "evaluation": self.evaluation,
            "command_line": command_line(self.settings),
            "checks": {check.title: {"facts": check.facts, **_writable(check.values)} for check in self.checks},
        }


def _writable(value: Any) -> Any:
    """The same as JSON holds it, which has neither NaN nor infinity."""
    if isinstance(value, Mapping):
        return {str(key): _writable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_writable(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def command_line(settings: Mapping[str, Any]) -> str:
    """Return settings of the environment as they are typed: "env.id=… env.fresh=true"."""
    return " ".join(words(settings, "env."))


def yaml_lines(settings: Mapping[str, Any]) -> list[str]:
    """Return settings of the environment as lines of a config file."""
    return ["env:", *(f"  {name}: {_yaml(value)}" for name, value in settings.items())]


def _yaml(value: Any) -> str:
    line = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return line.removesuffix("...\n").rstrip()


def sentence(error: BaseException) -> str:
    """Return an error as one line: its type and its message, cut where it is long."""
    return str(error) if isinstance(error, BrokenEnvironment) else said(error)
