"""What a policy observes with the settings that fit, and whether they keep what they promise."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np

from diffpolicy.evaluation.check_env.findings import Findings
from diffpolicy.evaluation.check_env.traces import Instance, Neighbor, difference, kept_globals, run, seed_globals
from diffpolicy.evaluation.check_env.traces import leaves as parts
from diffpolicy.evaluation.contract import MakeEnv, factory
from diffpolicy.evaluation.journal import Journal


def check_fitting(
    make: MakeEnv, journal: Journal, seed: int, actions: Sequence[Any], shown: gym.Space[Any]
) -> Findings:
    """Return what a policy observes, and whether the same seed gives it the same episode.

    Args:
        make: makes one environment with the settings that fit.
        journal: where its calls are noted.
        seed: of the episode.
        actions: of the episode, which may end earlier.
        shown: observation space of the environment as it is.
    """
    found, made_by = Findings("with the settings that fit"), factory(make)
    with kept_globals(), closing(Instance(make, journal)) as env, closing(Instance(make, journal)) as other:
        _say_observed(found, env.env.observation_space, shown, None if made_by is None else made_by.config.estimator)
        seed_globals(1)
        first = run(env, seed, actions)
        others = [run(env, seed + k, actions) for k in (1, 2)]
        again = difference(first, run(env, seed, actions, between=seed_globals))
        beside = difference(first, run(env, seed, actions, between=Neighbor(other, seed + 1, actions)))
    if all(np.array_equal(first.rows[0], other_seed.rows[0]) for other_seed in others):
        found.notes.append(
            f"seeds {seed}, {seed + 1} and {seed + 2} start alike; unless that is meant, reset ignores its seed, and "
            "an evaluation over many seeds is one episode many times"
        )
    found.facts.append(f"the same seed again, after another episode: {again}")
    found.facts.append(f"the same seed beside another instance: {beside}")
    found.values |= {"bitwise": not again, "largest": again.largest}
    if again:
        found.broken.append(f"with these settings the same seed does not give the same episode: {again}")
    elif beside:
        found.evaluation["envs"] = 1
        found.notes.append(
            "instances in one process disturb one another; evaluate with envs=1, and with more workers instead"
        )
    return found


def _say_observed(found: Findings, space: gym.Space[Any], shown: gym.Space[Any], estimator: str | None) -> None:
    observed = dict(parts(space))
    says = [
        f"{key or 'a vector'} {'camera ' if part.dtype in (np.uint8, np.uint16) else ''}{part.shape}"
        for key, part in observed.items()
    ]
    found.facts.append(f"a policy observes {', '.join(says)}")
    if estimator is not None:
        found.facts.append(f"told by {estimator} from {', '.join(key or 'a vector' for key, _ in parts(shown))}")
    left_out = [key for key, _ in parts(shown) if key and key not in observed and estimator is None]
    if left_out:
        found.facts.append(f"left out: {', '.join(left_out)}")
    found.values |= {"observed": {key: [*part.shape] for key, part in observed.items()}, "left_out": left_out}
