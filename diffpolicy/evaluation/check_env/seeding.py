"""Whether the same seed gives the same episode: across instances, after other episodes, whatever draws beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import Any

from diffpolicy.evaluation.check_env.findings import Findings
from diffpolicy.evaluation.check_env.traces import (
    SEEDED,
    Difference,
    Instance,
    Neighbor,
    Trace,
    difference,
    kept_globals,
    run,
    seed_globals,
)
from diffpolicy.evaluation.contract import MakeEnv
from diffpolicy.evaluation.journal import Journal

TITLE = "same seed, same episode (compared in float64)"

ROUNDING = 1e-9
"""What is closer than this differs by the order of additions, not by what happened."""

_OTHER = 54321


def check_seeding(make: MakeEnv, journal: Journal, seed: int, actions: Sequence[Any]) -> tuple[Findings, Trace]:
    """Run the same episode under different circumstances; return what that says, and the episode.

    Args:
        make: makes one environment.
        journal: where its calls are noted.
        seed: of the episode.
        actions: of the episode, which may end earlier.
    """
    found = Findings(TITLE)
    with kept_globals(), ExitStack() as opened:

        def new() -> Instance:
            return opened.enter_context(closing(Instance(make, journal)))

        env = new()
        first = run(env, seed, actions, seeded=SEEDED)
        again = _against(found, first, "twice in one instance", run(env, seed, actions, seeded=SEEDED))
        for k in (1, 2):
            run(env, seed + k, actions, seeded=SEEDED)
        later = _against(found, first, "after other episodes", run(env, seed, actions, seeded=SEEDED))
        fresh = _against(found, first, "in a new instance", run(new(), seed, actions, seeded=SEEDED))
        remembers = bool(again or later) and not fresh

        def clean() -> Instance:
            return new() if remembers else env

        seed_globals(_OTHER)
        unseeded = _against(
            found, first, "random and numpy.random left in another state", run(clean(), seed, actions, seeded=None)
        )
        disturbed = run(clean(), seed, actions, seeded=SEEDED, between=seed_globals)
        drawn = _against(found, first, "others draw from them during the episode", disturbed)
        neighbor = Neighbor(new(), seed + 1, actions)
        beside = run(clean(), seed, actions, seeded=SEEDED, between=neighbor)
        _against(found, first, "another instance steps beside it", beside)
    if fresh:
        _irreproducible(found, fresh, bool(again), lambda: _made_seeded(make, journal, seed, actions))
    else:
        _judge(found, again, later, unseeded, drawn)
    return found, first


def _against(found: Findings, first: Trace, how: str, other: Trace) -> Difference:
    apart = difference(first, other)
    found.facts.append(f"{how}: {apart}")
    found.values[how] = {"bitwise": not apart, "largest": apart.largest, "at_start": apart.at_start}
    return apart


def _judge(found: Findings, again: Difference, later: Difference, unseeded: Difference, drawn: Difference) -> None:
    """Say what an environment needs whose new instances agree."""
    if again or later:
        found.settings["fresh"] = True
        size = max(again.largest, later.largest)
        small = ", by no more than rounding" if size < ROUNDING else ""
        found.notes.append(
            f"an instance remembers its earlier episodes (up to {size:.1e} apart{small}); env.fresh=true makes a new "
            "one for every episode"
        )
    if unseeded or drawn:
        found.settings["seed_globals"] = True
        when = "during an episode, too" if drawn else "at the reset"
        found.notes.append(
            f"it draws from the generators of random or numpy.random ({when}), which reset(seed=) does not seed; "
            "env.seed_globals=true seeds them before every reset, and gives it generators of its own"
        )


def _irreproducible(found: Findings, fresh: Difference, again: bool, seeded_made: Callable[[], Difference]) -> None:
    """Say what is wrong with an environment whose new instances disagree."""
    if fresh.largest < ROUNDING:
        found.notes.append(
            f"two new instances agree but for rounding ({fresh.largest:.1e}); results may differ in their last bits"
        )
        return
    if not seeded_made():
        found.broken.append(
            "what an instance draws while it is made decides its episodes, and reset(seed=) does not; give it a seed "
            "of its own (such as env.kwargs.seed=0) if it takes one, or let its reset draw from self.np_random"
        )
        return
    where = "not even twice in one instance" if again else "only within one instance"
    found.broken.append(
        f"the same seed does not give the same episode ({where}), so that no result can be had again; let reset hand "
        "its seed to super().reset(seed=seed), and draw from self.np_random alone"
    )


def _made_seeded(make: MakeEnv, journal: Journal, seed: int, actions: Sequence[Any]) -> Difference:
    """The difference of two new instances that are made with the process-wide generators seeded."""
    traces = []
    with kept_globals():
        for _ in range(2):
            seed_globals(SEEDED)
            with closing(Instance(make, journal)) as env:
                traces.append(run(env, seed, actions, seeded=SEEDED))
    return difference(*traces)
