"""The report on an environment, whose checks run in a process of their own: it may hang or die."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from diffpolicy.config import EnvConfig, plain
from diffpolicy.config.commands import CheckEnvConfig
from diffpolicy.evaluation.adapters import make_env
from diffpolicy.evaluation.check_env.advice import advise
from diffpolicy.evaluation.check_env.findings import Findings, Report, sentence
from diffpolicy.evaluation.check_env.probe import Checks, Plan, Reference, probe, repeat
from diffpolicy.evaluation.check_env.traces import difference
from diffpolicy.evaluation.shards import run_shards
from diffpolicy.util.errors import require
from diffpolicy.util.files import write_json

_SECONDS = 2.0  # of the steps of one episode: some ten of these are run


def check_environment(
    config: CheckEnvConfig, *, apart: bool = True, say: Callable[[str], object] = lambda text: None
) -> Report:
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
    plan = Plan(make, make.rendering(), config.seed, config.steps, _SECONDS, config.patience)
    work = functools.partial(probe, plan)
    checks, reference = _gather(run_shards(work, [0]) if apart else _alone(work), say)
    if apart and reference is not None:
        say("another process")
        checks.append(_another_process(plan, reference))
    report = Report(str(config.env.id), _given(config.env), tuple(checks))
    if config.out is not None:
        write_json(config.out, report.plain())
    return report


def _alone(work: Callable[[], Checks[Reference | None]]) -> Checks[list[Reference | None]]:
    """Run the checks in this process, as `run_shards` would in another."""
    return [(yield from work())]


def _gather(
    checks: Checks[list[Reference | None]], say: Callable[[str], object]
) -> tuple[list[Findings], Reference | None]:
    """What was found until the end, or until the process died."""
    found: list[Findings] = []
    doing = "starting a process"
    try:
        while True:
            item = next(checks)
            if isinstance(item, Findings):
                found.append(item)
            else:
                doing = item
                say(doing)
    except StopIteration as end:
        return found, end.value[0]
    except Exception as error:  # of the process: those of the environment are findings already
        found.append(Findings(doing, broken=[f"{doing}: {sentence(error)}"]))
        return found, None


def _another_process(plan: Plan, reference: Reference) -> Findings:
    """Whether the episode is the same in another process, to which what makes environments is pickled."""
    found = Findings("in another process")
    try:
        (trace,) = run_shards(functools.partial(repeat, plan.make, reference), [0])
    except Exception as error:
        found.broken.append(f"{sentence(error)}; workers=0 rolls out in one process")
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


def describe(report: Report) -> str:
    """Return a report as text for the terminal, with the settings that fit at its end."""
    lines = [report.name]
    for check in report.checks:
        lines += check.lines()
    return "\n".join([*lines, "", *advise(report)])
