"""What one episode of random actions shows: `info`, rewards, how it ends, how fast it goes."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from diffpolicy.config.commands import EvaluateConfig
from diffpolicy.evaluation.check_env.findings import Findings
from diffpolicy.evaluation.check_env.traces import Instance, leaves, numbers
from diffpolicy.evaluation.contract import BrokenEnvironment, MakeEnv, has_time_limit
from diffpolicy.evaluation.journal import Journal
from diffpolicy.evaluation.shards import INFERENCE_BLOCK
from diffpolicy.evaluation.task import DEFAULT_FPS, SUCCESS_KEYS, TaskSpec

SUGGESTED_LIMIT = 500
"""The time limit that is proposed for an environment without one."""

_LONGEST = 2000  # steps of an episode that tells what `info` holds and which rewards there are
_MAKING = 60.0  # seconds that making all environments of an evaluation may take


@dataclass
class Episode:
    """What one episode of random actions showed.

    Args:
        task: what the environment declares.
        observation_space: of the environment.
        action_space: of the environment.
        metadata: of the environment.
        limit: registered time limit in steps; None if a wrapper has one, or none is known.
        limited: whether anything limits the steps.
        reset_info: `info` of the reset.
        info: `info` of the last step.
        now_and_then: keys of `info` that some steps have and others lack.
        actions: those taken.
        rewards: of all steps.
        seconds: of "make", "reset", and all "steps" together.
        obs: the first observation, as it was then.
        lows: leaf of the observation -> the least values seen of each of its numbers; NaN stays.
        highs: leaf -> the greatest.
        ended: whether the episode ended.
        trouble: why a step broke the episode off; None if none did.
        overwritten: whether later steps changed the first observation.
    """

    task: TaskSpec
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    metadata: Mapping[str, Any]
    limit: int | None
    limited: bool
    reset_info: Mapping[str, Any]
    obs: Any
    info: Mapping[str, Any] = field(default_factory=dict)
    now_and_then: set[Any] = field(default_factory=set)
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    lows: dict[str, np.ndarray] = field(default_factory=dict)
    highs: dict[str, np.ndarray] = field(default_factory=dict)
    ended: bool = False
    trouble: str | None = None
    overwritten: bool = False

    def see(self, obs: Any) -> None:
        """Take an observation into account."""
        for key, value in leaves(obs):
            seen = numbers(value)
            same = key in self.lows and self.lows[key].shape == seen.shape
            self.lows[key] = np.minimum(self.lows[key], seen) if same else seen
            self.highs[key] = np.maximum(self.highs[key], seen) if same else seen


def random_actions(space: gym.Space[Any], seed: int, count: int) -> list[Any]:
    """Return actions drawn from a space, without touching the space's own generator."""
    space = copy.deepcopy(space)
    space.seed(seed)
    return [space.sample() for _ in range(count)]


def explore(make: MakeEnv, journal: Journal, seed: int, seconds: float) -> Episode:
    """Run an episode of random actions, for at most so many seconds, and return what it showed.

    Args:
        make: makes one environment.
        journal: where its calls are noted.
        seed: of the episode, and of the actions.
        seconds: that its steps may take.

    Raises:
        BrokenEnvironment, TypeError: an environment that cannot be reset, or not as rollouts do.
    """
    began = time.perf_counter()
    with closing(Instance(make, journal)) as instance:
        made = time.perf_counter()
        obs, info = instance.reset(seed)
        started = time.perf_counter()
        env = instance.env
        limit = None if env.spec is None else env.spec.max_episode_steps
        spaces = env.observation_space, env.action_space, env.metadata or {}
        seen = Episode(TaskSpec.of(env), *spaces, limit, has_time_limit(env), dict(info), copy.deepcopy(obs))
        seen.see(obs)
        seen.seconds = {"make": made - began, "reset": started - made, "steps": 0.0}
        first = obs
        for action in random_actions(env.action_space, seed, _LONGEST):
            before = time.perf_counter()
            try:
                obs, reward, seen.ended, info = instance.step(action)
            except BrokenEnvironment as error:
                seen.trouble = str(error)
                break
            seen.seconds["steps"] += time.perf_counter() - before
            seen.actions.append(action)
            seen.rewards.append(reward)
            seen.now_and_then |= info.keys() ^ (seen.info if seen.actions[1:] else info).keys()
            seen.info = dict(info)
            seen.see(obs)
            if seen.ended or seen.seconds["steps"] > seconds:
                break
        pairs = zip(leaves(first), leaves(seen.obs), strict=True)
        seen.overwritten = any(not np.array_equal(numbers(a), numbers(b)) for (_, a), (_, b) in pairs)
    return seen


def check_episode(seen: Episode, success: str | None = None) -> Findings:
    """Return what an episode says about `info`, success, rewards, its end and its speed.

    Args:
        seen: the episode.
        success: what is to say that the task is done, see `EnvConfig`; None where nothing was chosen.
    """
    found = Findings("an episode of random actions")
    if seen.trouble is not None:
        found.broken.append(seen.trouble)
    if not seen.rewards:
        return found
    _judge_success(found, seen, success)
    _judge_rewards(found, seen)
    _judge_end(found, seen)
    if seen.overwritten:
        found.facts.append("steps overwrite the arrays of earlier observations, which are copied here")
    fps = seen.metadata.get("render_fps")
    found.facts.append(f"control rate: {seen.task.fps:g} steps a second" + ("" if fps else ", assumed"))
    if not fps and seen.task.fps == DEFAULT_FPS:
        found.notes.append(f'metadata has no "render_fps"; videos and recordings take {DEFAULT_FPS:g} steps a second')
    rate = len(seen.actions) / max(seen.seconds["steps"], 1e-9)
    found.values["seconds"] = {**seen.seconds, "step": 1 / rate}
    found.facts.append(
        f"speed, measured here and now: {rate:.3g} steps a second, reset {1000 * seen.seconds['reset']:.3g} ms, "
        f"making {seen.seconds['make']:.2g} s"
    )
    found.values |= {"fps": seen.task.fps, "steps": len(seen.actions)}
    _judge_making(found, seen)
    return found


def _judge_making(found: Findings, seen: Episode) -> None:
    """Propose as many environments as are made within a minute, in whole blocks of inference where these fit."""
    many = int(_MAKING / max(seen.seconds["make"], 1e-9))
    if many < EvaluateConfig().envs:
        envs = max(many - many % INFERENCE_BLOCK, min(many, INFERENCE_BLOCK), 1)
        found.evaluation["envs"] = envs
        found.facts.append(f"slow to make: envs={envs} makes no more than a minute's worth of them in each process")


def _judge_success(found: Findings, seen: Episode, success: str | None) -> None:
    for when, info in (("reset", seen.reset_info), ("step", seen.info)):
        found.facts.append(f"info of {when}: {', '.join(map(str, info)) or 'empty'}")
    if seen.now_and_then:
        found.notes.append(f"info has {', '.join(map(str, seen.now_and_then))} at some steps only")
    found.values["info"] = {"reset": [*map(str, seen.reset_info)], "step": [*map(str, seen.info)]}
    declared = success or seen.task.success_key
    key = declared or next((key for key in SUCCESS_KEYS if key in seen.info), None)
    found.values["success_key"] = key
    if key is None:
        flags = [str(name) for name, value in seen.info.items() if isinstance(value, (bool, np.bool_))]
        cure = f"env.success={flags[0]} takes that of {', '.join(flags)}" if flags else "env.success=KEY names one"
        found.notes.append(f"info does not say by {' or '.join(SUCCESS_KEYS)} whether the task is done; {cure}")
    else:
        found.facts.append(f"success: {key}{', as env.success says' if success else ''}")


def _judge_rewards(found: Findings, seen: Episode) -> None:
    low, high = min(seen.rewards), max(seen.rewards)
    found.values["reward"] = [low, high]
    found.facts.append(f"reward: {low:.4g} to {high:.4g} in {len(seen.rewards)} steps")


def _judge_end(found: Findings, seen: Episode) -> None:
    steps = len(seen.actions)
    found.facts.append(f"ended after {steps} steps" if seen.ended else f"still running after {steps} steps")
    found.values |= {"time_limit": seen.limit, "ended": seen.ended}
    if seen.limited:
        found.facts.append("time limit: " + ("a wrapper's" if seen.limit is None else f"{seen.limit} steps"))
    else:
        found.settings["max_steps"] = SUGGESTED_LIMIT
        found.notes.append(
            f"no time limit, so that an episode might never end; give one, such as env.max_steps={SUGGESTED_LIMIT}"
        )
