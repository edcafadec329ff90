"""What an environment does at its edges: actions outside its bounds, steps after the end."""

from __future__ import annotations

import time
import warnings
from contextlib import closing

import gymnasium as gym
import numpy as np

from diffpolicy.evaluation.check_env.findings import Findings, sentence
from diffpolicy.evaluation.check_env.stepping import random_actions
from diffpolicy.evaluation.check_env.traces import Instance, difference, run
from diffpolicy.evaluation.contract import MakeEnv
from diffpolicy.evaluation.journal import Journal
from diffpolicy.evaluation.task import TaskSpec

_TRIED = 5  # steps with an action outside the bounds


def check_edges(make: MakeEnv, journal: Journal, seed: int, seconds: float) -> Findings:
    """Return what an environment does with actions outside its bounds, and with a step after the end.

    Args:
        make: makes one environment.
        journal: where its calls are noted.
        seed: of the episodes.
        seconds: for how long the end of an episode is waited for.
    """
    found = Findings("edges")
    with closing(Instance(make, journal)) as env:
        _outside(found, env, seed)
    with closing(Instance(make, journal)) as env:  # anew: the other one may be broken
        _after_the_end(found, env, seed, seconds)
    return found


def _outside(found: Findings, env: Instance, seed: int) -> None:
    space = env.env.action_space
    if not isinstance(space, gym.spaces.Box) or not np.isfinite([space.low, space.high]).all():
        return
    beyond = (space.high + (space.high - space.low)).astype(space.dtype)
    try:
        clipped, outside = (run(env, seed, [action] * _TRIED, seeded=0) for action in (space.high, beyond))
        does = "are taken as they are" if difference(clipped, outside) else "have the effect of clipped ones"
    except Exception as error:
        does = f"are refused ({sentence(error)})"
    handed = (
        "they reach it as they are, since its task declares that it clips them"
        if TaskSpec.of(env.env).clips_actions
        else "they are clipped before they reach it"
    )
    found.facts.append(f"actions outside the bounds {does}; {handed}")
    found.values["outside"] = does


def _after_the_end(found: Findings, env: Instance, seed: int, seconds: float) -> None:
    (action,) = random_actions(env.env.action_space, seed, 1)
    env.reset(seed)
    began, done, steps = time.perf_counter(), False, 0
    while not done and time.perf_counter() - began < seconds:
        done, steps = env.step(action)[2], steps + 1
    if not done:
        found.facts.append(f"one action again and again did not end an episode within {steps} steps")
        return
    try:
        with warnings.catch_warnings(action="ignore"):
            env.env.step(action)
        does = "goes on as if nothing had happened"
    except Exception as error:
        does = f"is refused ({sentence(error)})"
    found.facts.append(f"a step after the end {does}; no rollout here takes one")
    found.values["after_the_end"] = does
