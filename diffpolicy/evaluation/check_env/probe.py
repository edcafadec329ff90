"""All checks of an environment, one after another; what goes wrong in one becomes a sentence of the report."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from diffpolicy.evaluation.adapters import EnvFactory
from diffpolicy.evaluation.check_env.edges import check_edges
from diffpolicy.evaluation.check_env.findings import Findings, sentence
from diffpolicy.evaluation.check_env.fitting import check_fitting
from diffpolicy.evaluation.check_env.rendering import check_rendering
from diffpolicy.evaluation.check_env.seeding import check_seeding
from diffpolicy.evaluation.check_env.spaces import check_spaces
from diffpolicy.evaluation.check_env.stepping import Episode, check_episode, explore
from diffpolicy.evaluation.check_env.traces import SEEDED, Instance, Trace, kept_globals, run
from diffpolicy.evaluation.contract import MakeEnv
from diffpolicy.evaluation.journal import Journal

CHECKS = ("an episode", "seeding", "the settings", "edges", "rendering")
"""What is checked, in this order; all but the first need what the first has found."""

_DECORATION = re.compile(r"^(\x1b\[[0-9;]*m)?WARN: |\x1b\[[0-9;]*m")
_WARNINGS = 5  # are told, those that come first


@dataclass(frozen=True)
class Plan:
    """What is checked, and for how long.

    Args:
        make: makes one environment, as it is.
        rendering: makes one that is to render frames.
        fitting: makes one with the settings that were given.
        seed: of the first episode.
        steps: of an episode, at most.
        seconds: that the steps of one episode may take before it is cut.
    """

    make: MakeEnv
    rendering: MakeEnv
    fitting: EnvFactory
    seed: int
    steps: int
    seconds: float


@dataclass(frozen=True)
class Reference:
    """An episode that another process is to repeat."""

    seed: int
    actions: Sequence[Any]
    trace: Trace


Found = str | Findings | Reference
"""What is about to be checked, what was found, or an episode for another process."""


def probe(plan: Plan, checks: Sequence[str], *, journal: Journal) -> Generator[Found, None, None]:
    """Yield what is about to be checked, then what was found, check after check.

    Args:
        plan: what is checked.
        checks: which of `CHECKS`.
        journal: where the calls of environments are noted.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield from _checks(plan, checks, journal)
    said = list(dict.fromkeys(_DECORATION.sub("", str(one.message)) for one in caught))
    if said:
        yield Findings("warnings while this was checked", notes=[" ".join(one.split()) for one in said[:_WARNINGS]])


def _checks(plan: Plan, checks: Sequence[str], journal: Journal) -> Generator[Found, None, None]:
    yield CHECKS[0]
    try:
        seen = explore(plan.make, journal, plan.seed, plan.seconds)
    except Exception as error:
        yield Findings(CHECKS[0], broken=[sentence(error)])
        return
    actions = seen.actions[: plan.steps]
    of_episode = (check_spaces(seen), check_episode(seen, plan.fitting.config.success))
    needed = {**of_episode[0].settings, **of_episode[1].settings}
    todo: dict[str, Callable[[], Sequence[Found]]] = {
        CHECKS[0]: lambda: of_episode,
        CHECKS[1]: lambda: _seeding(plan, actions, journal),
        CHECKS[2]: lambda: _fitting(plan, needed, seen, actions, journal),
        CHECKS[3]: lambda: [check_edges(plan.make, journal, plan.seed, plan.seconds)],
        CHECKS[4]: lambda: _rendering(plan, seen, actions, journal),
    }
    for name in checks:
        yield name
        try:
            for item in todo[name]():
                if isinstance(item, Findings):
                    needed |= item.settings
                yield item
        except Exception as error:
            yield Findings(name, broken=[sentence(error)])


def _seeding(plan: Plan, actions: Sequence[Any], journal: Journal) -> Sequence[Found]:
    found, trace = check_seeding(plan.make, journal, plan.seed, actions)
    return found, Reference(plan.seed, actions, trace)


def _fitting(
    plan: Plan, needed: Mapping[str, Any], seen: Episode, actions: Sequence[Any], journal: Journal
) -> Sequence[Found]:
    config = replace(plan.fitting.config, **needed)
    make = replace(plan.fitting, config=config)
    return [check_fitting(make, journal, plan.seed, actions, seen.observation_space)]


def _rendering(plan: Plan, seen: Episode, actions: Sequence[Any], journal: Journal) -> Sequence[Found]:
    modes = seen.metadata.get("render_modes") or ()
    return [check_rendering((plan.make, plan.rendering), journal, modes, plan.seed, actions)]


def repeat(make: MakeEnv, reference: Reference, _shard: int, *, journal: Journal) -> Generator[Trace, None, None]:
    """Yield the trace of an episode, run in whatever process this is called in."""
    with kept_globals(), closing(Instance(make, journal)) as env:
        yield run(env, reference.seed, reference.actions, seeded=SEEDED)
