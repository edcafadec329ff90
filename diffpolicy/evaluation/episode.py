"""How an episode starts, what happens at a step, and what its result is; the seeds of every protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from diffpolicy.config.commands import REPORT_SEED
from diffpolicy.evaluation.task import ASKED, SECOND_DIFFERENCE, TaskSpec
from diffpolicy.util import names
from diffpolicy.util.errors import require

VALIDATION_SEED = 10_000
"""First of the validation seeds, which are rolled out in training."""

VALIDATION_EPISODES = 50


@dataclass(frozen=True)
class Reset:
    """How an episode starts.

    Args:
        seed: of the agent's random numbers; it names the episode.
        env_seed: of the environment; None takes `seed`.
        options: of the environment's `reset`.
        limit: end the episode after this many steps at most; None leaves that to the environment.
    """

    seed: int
    env_seed: int | None = None
    options: Mapping[str, Any] | None = None
    limit: int | None = None


@dataclass
class Episode:
    """The result of one episode.

    Args:
        seed: see `Reset`.
        number: its place among the resets.
        success: whether the task was done at some step; None in an environment that does not say.
        success_at_end: whether it was done at the last step.
        steps: control steps taken.
        metrics: name -> value, see `TaskSpec.metrics`; after the last step also how unsteady the actions were.
        mode: the mode in which the task was done, "" if in none; None for tasks without modes.
        asked: how many chunks the agent asked about, see `ExecutionConfig.ask_above`; None if it never does.
        observed: what observers kept, by their names.
        error: why the environment broke the episode off, in one sentence; None if it ran to its end. Such an episode
            has no results.
        trace: the traceback of that error, where an exception was raised.
        went_on: whether the episode went on after its first success, so that its end may be another.
    """

    seed: int
    number: int = 0
    success: bool | None = None
    success_at_end: bool | None = None
    steps: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    mode: str | None = None
    asked: int | None = None
    observed: dict[str, Any] = field(default_factory=dict, repr=False)
    error: str | None = None
    trace: str | None = field(default=None, repr=False)
    went_on: bool = field(default=False, repr=False)
    _actions: list[Any] = field(default_factory=list, repr=False, compare=False)

    def count(self, task: TaskSpec, action: Any, reward: float, info: Mapping[str, Any]) -> None:
        """Take one more step into account."""
        self.steps += 1
        self._actions.append(action)
        for name, metric in task.metrics.items():
            self.metrics[name] = metric.reduce(self.metrics.get(name), reward, info)
        self.went_on = bool(self.success)
        self.success_at_end = task.succeeded(info)
        if self.success_at_end is not None:
            self.success = bool(self.success) or self.success_at_end
        if task.mode_key is not None:
            self.mode = info.get(task.mode_key)

    def end(self, space: gym.Space[Any] | None) -> None:
        """Take into account that there are no more steps.

        Args:
            space: of the actions, to which they were clipped; None if it is not known.
        """
        actions = np.array(self._actions, np.float64)
        if isinstance(space, gym.spaces.Box):
            actions = np.clip(actions, space.low, space.high)
        self.metrics[SECOND_DIFFERENCE] = second_difference(actions)
        self._actions = []

    def fail(self, error: str, trace: str | None = None) -> None:
        """Note why the environment broke the episode off, and forget what it would have been counted for."""
        self.error, self.trace = error, trace
        self.success = self.success_at_end = self.mode = self.asked = None
        self.metrics, self.observed, self.went_on, self._actions = {}, {}, False, []

    def row(self, at_end: bool | None = None) -> dict[str, Any]:
        """Return the episode as plain data, as evaluation.json keeps it.

        Args:
            at_end: whether success at the end stands beside success at any step; None where the two can differ.
        """
        if self.error is not None:
            return {"seed": self.seed, "steps": self.steps, "error": self.error}
        at_end = self.went_on if at_end is None else at_end and self.success is not None
        return {
            "seed": self.seed,
            **self.metrics,
            **({} if self.success is None else {"success": self.success}),
            **({"success_at_end": bool(self.success_at_end)} if at_end else {}),
            **({} if self.asked is None else {ASKED: self.asked}),
            "steps": self.steps,
            **({} if self.mode is None else {"mode": self.mode}),
        }


class Step(NamedTuple):
    """One control step of one environment, as observers see it.

    Attributes:
        env_id: number of the environment among those side by side.
        episode: so far, this step included.
        env: the environment, after the step.
        obs: before the step.
        action: (A,), as the agent gave it; the environment may clip it.
        reward: of the step.
        next_obs: after the step.
        info: after the step.
        done: whether the episode has ended.
        seconds: how long the agent took to act, for all environments together.
        planned: whether the agent started new chunks at this step.
        spread: how far the candidates of the chunk that began at this step are apart; None of one candidate.
    """

    env_id: int
    episode: Episode
    env: gym.Env[Any, Any]
    obs: Any
    action: np.ndarray
    reward: float
    next_obs: Any
    info: Mapping[str, Any]
    done: bool
    seconds: float
    planned: bool
    spread: float | None = None


def second_difference(actions: np.ndarray) -> float:
    """Return the mean length of a_{k+1} - 2 a_k + a_{k-1} over actions (L, ...), in their units; 0 for L < 3."""
    if len(actions) < 3:
        return 0.0
    bends = np.diff(actions, n=2, axis=0)
    return float(np.linalg.norm(bends.reshape(len(bends), -1), axis=1).mean())


def episode_rows(episodes: Sequence[Episode]) -> list[dict[str, Any]]:
    """Return the episodes that no environment broke off as plain data, with the same entries each.

    Success at the end stands beside success at any step if one of them went on after its first success.
    """
    whole = [episode for episode in episodes if episode.error is None]
    at_end = any(episode.went_on for episode in whole)
    return [episode.row(at_end) for episode in whole]


def episode_resets(seeds: str | int, episodes: int, task: TaskSpec | None = None) -> list[Reset]:
    """Return the initial states of an evaluation.

    Args:
        seeds: first of consecutive seeds, or the name of one of the task's `seed_sets`.
        episodes: how many.
        task: whose named seeds there are.

    Raises:
        ValueError: fewer than one episode, more than the named set has, an unknown name, or a negative seed.
    """
    require(episodes >= 1, f"episodes={episodes}", "at least 1")
    if str(seeds).lstrip("-").isdigit():
        require(int(seeds) >= 0, f"seeds={seeds}", "a first seed >= 0")
        return [Reset(seed) for seed in range(int(seeds), int(seeds) + episodes)]
    named = task.seed_sets if task else {}
    names.check("seeds", seeds, [*named, f"a number such as {REPORT_SEED}"])
    chosen = named[str(seeds)]
    given, cure = f"episodes={episodes} with seeds={seeds}", f"take fresh seeds with seeds={REPORT_SEED}"
    require(episodes <= chosen.episodes, given, f"at most {chosen.episodes}", cure)
    key = chosen.option
    return [
        Reset(seed, options=None if key is None else {key: seed})
        for seed in range(chosen.first, chosen.first + episodes)
    ]
