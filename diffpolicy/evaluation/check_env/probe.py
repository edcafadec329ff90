"""All checks of an environment, one after another; what goes wrong in one becomes a sentence of the report."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

from diffpolicy.evaluation import contract
from diffpolicy.evaluation.check_env.edges import check_edges
from diffpolicy.evaluation.check_env.findings import Findings, sentence
from diffpolicy.evaluation.check_env.rendering import check_rendering
from diffpolicy.evaluation.check_env.seeding import check_seeding
from diffpolicy.evaluation.check_env.spaces import check_spaces
from diffpolicy.evaluation.check_env.stepping import check_episode, explore
from diffpolicy.evaluation.check_env.traces import SEEDED, Trace, kept_globals, run
from diffpolicy.evaluation.check_env.watch import deadline
from diffpolicy.evaluation.contract import MakeEnv

Result = TypeVar("Result")
Checks = Generator["str | Findings", None, Result]

_DECORATION = re.compile(r"^(\x1b\[[0-9;]*m)?WARN: |\x1b\[[0-9;]*m")
_WARNINGS = 5  # are told, those that come first


@dataclass(frozen=True)
class Plan:
    """What is checked, and with how much patience.

    Args:
        make: makes one environment, as it is.
        rendering: makes one that is to render frames.
        seed: of the first episode.
        steps: of an episode, at most.
        seconds: that the steps of one episode may take before it is cut.
        patience: seconds after which a check is given up.
    """

    make: MakeEnv
    rendering: MakeEnv
    seed: int
    steps: int
    seconds: float
    patience: float


@dataclass(frozen=True)
class Reference:
    """The episode that another process is to repeat."""

    seed: int
    actions: Sequence[Any]
    trace: Trace


def probe(plan: Plan, _shard: int = 0) -> Checks[Reference | None]:
    """Yield what is about to be checked, and then what was found; return an episode for another process."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reference = yield from _checks(plan)
    said = list(dict.fromkeys(_DECORATION.sub("", str(one.message)) for one in caught))
    if said:
        yield Findings("warnings while this was checked", notes=[" ".join(one.split()) for one in said[:_WARNINGS]])
    return reference


def _checks(plan: Plan) -> Checks[Reference | None]:
    seen = yield from _attempt(plan, "an episode", lambda: explore(plan.make, plan.seed, plan.seconds))
    if seen is None:
        return None
    spaces = check_spaces(seen)
    yield spaces
    yield check_episode(seen)
    actions, reference = seen.actions[: plan.steps], None
    checked = yield from _attempt(plan, "seeding", lambda: check_seeding(plan.make, plan.seed, actions))
    if checked is not None:
        yield checked[0]
        reference = Reference(plan.seed, actions, checked[1])
    edges = yield from _attempt(plan, "edges", lambda: check_edges(plan.make, plan.seed, plan.seconds))
    if edges is not None:
        yield edges
    modes = seen.metadata.get("render_modes") or ()
    first = None if reference is None else reference.trace
    look = lambda: check_rendering(plan.rendering, modes, plan.seed, actions, first)  # noqa: E731
    rendering = yield from _attempt(plan, "rendering", look)
    if rendering is not None:
        yield rendering
    return reference


def _attempt(plan: Plan, name: str, check: Callable[[], Result]) -> Checks[Result | None]:
    """Say what is done, do it, and return its result; None, and a sentence, where it fails."""
    yield name
    try:
        with deadline(plan.patience, name):
            return check()
    except Exception as error:
        yield Findings(name, broken=[sentence(error)])
        return None


def repeat(make: MakeEnv, reference: Reference, _shard: int = 0) -> Generator[Trace, None, None]:
    """Yield the trace of an episode, run in whatever process this is called in."""
    with kept_globals(), closing(contract.make(make)) as env:
        yield run(env, reference.seed, reference.actions, seeded=SEEDED)
