"""The report on an environment, whose checks run in a process of their own: it may hang or die."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, final

from diffpolicy.config import EnvConfig, plain
from diffpolicy.config.commands import CheckEnvConfig
from diffpolicy.evaluation.adapters import make_env
from diffpolicy.evaluation.check_env.findings import Findings, Report, sentence
from diffpolicy.evaluation.check_env.probe import CHECKS, Found, Plan, Reference, probe, repeat
from diffpolicy.evaluation.check_env.traces import difference
from diffpolicy.evaluation.journal import Journal
from diffpolicy.evaluation.shards import Death, run_shards
from diffpolicy.util.errors import require
from diffpolicy.util.files import write_json

_SECONDS = 2.0  # of the steps of one episode: some ten of these are run

Say = Callable[[str], object]


def check_environment(config: CheckEnvConfig, *, apart: bool = True, say: Say = lambda text: None) -> Report:
    """Return what an environment is like, found out by trying it.

    Args:
        config: which environment, and how long to try.
        apart: run the checks in a process of their own, so that an environment may hang or die.
        say: called with what is about to be checked.

    Raises:
        ValueError: settings out of range, or an environment that is not known here.
    """
    given = f"steps={config.steps}, seed={config.seed}, patience={config.patience}"
    fits = config.steps >= 1 and config.seed >= 0 and config.patience > 0
    require(fits, given, "steps >= 1, seed >= 0, patience > 0")
    env = config.env
    made_by = EnvConfig(env.id, env.kwargs, env.task, env.factory, max_steps=env.max_steps)
    make = make_env(made_by).bare()
    plan = Plan(make, make.rendering(), make_env(env), config.seed, config.steps, _SECONDS)
    checks = _Collected(say)
    checks.run(plan, config.patience if apart else None)
    if apart and checks.reference is not None:
        say("another process")
        checks.found.append(_another_process(plan, checks.reference, config.patience))
    report = Report(make.id, _given(config.env), tuple(checks.found))
    if config.out is not None:
        write_json(config.out, report.plain())
    return report


@final
class _Collected:
    """What the checks have found so far.

    Args:
        say: called with what is about to be checked.
    """

    def __init__(self, say: Say) -> None:
        self.found: list[Findings] = []
        self.reference: Reference | None = None
        self._say, self._doing = say, "starting a process"

    def run(self, plan: Plan, patience: float | None) -> None:
        """Run all checks, in another process with so much patience, or in this one.

        Args:
            plan: what is checked.
            patience: seconds that a call of an environment may take there; None runs the checks in this process.
        """
        if patience is None:
            for item in probe(plan, CHECKS, journal=Journal()):
                self._take(item)
            return
        try:
            for _, item in run_shards(functools.partial(probe, plan), [CHECKS], self._mourn, patience):
                self._take(item)
        except Exception as error:  # it cannot go to another process: those of checks are findings already
            note = f"no worker processes: {sentence(error)}; workers=0 rolls out in one process"
            self.found.append(Findings("worker processes", notes=[note], evaluation={"workers": 0}))
            self.run(plan, None)

    def _take(self, item: Found) -> None:
        if isinstance(item, Findings):
            self.found.append(item)
        elif isinstance(item, Reference):
            self.reference = item
        else:
            self._doing = item
            self._say(item)

    def _mourn(self, checks: Sequence[str], death: Death) -> tuple[list[Findings], Sequence[str]]:
        """What is said of a check that took its process along, and the checks that are left."""
        done = CHECKS.index(self._doing) if self._doing in CHECKS[1:] else len(CHECKS)
        left = [name for name in checks if CHECKS.index(name) > done]
        return [Findings(self._doing, broken=[f"{self._doing}: {death.says}"])], left


def _another_process(plan: Plan, reference: Reference, patience: float) -> Findings:
    """Whether the episode is the same in another process, to which what makes environments is pickled."""
    found = Findings("in another process")
    died: list[Death] = []
    work = functools.partial(repeat, plan.make, reference)
    try:
        ((_, trace),) = run_shards(work, [0], lambda shard, death: (died.append(death) or [], 0), patience)
    except Exception as error:
        said = died[0].says if died else sentence(error)
        found.broken.append(f"no episode in another process: {said}; workers=0 rolls out in one process")
        return found
    apart = difference(reference.trace, trace)
    found.facts.append(f"the same seed in another process: {apart}")
    found.values = {"bitwise": not apart, "largest": apart.largest}
    if apart:
        found.notes.append("results depend on the process in which an episode is run; workers=0 keeps to one")
    return found


def _given(env: EnvConfig) -> dict[str, Any]:
    """The settings of an environment that are not the defaults."""
    usual = plain(EnvConfig())
    return {name: value for name, value in plain(env).items() if value != usual[name]}
