"""What a policy did: whole episodes, and when the task was done, as a recording that a killed run goes on with."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from tqdm import tqdm

from diffpolicy.config import plain
from diffpolicy.datasets import EpisodeWriter, ReplayBuffer
from diffpolicy.datasets.convert import SUCCESS
from diffpolicy.datasets.writer import alone
from diffpolicy.evaluation.episode import Episode, Reset, Step
from diffpolicy.evaluation.observers import ACTION, Observer, Recorder
from diffpolicy.evaluation.record import demonstration_env
from diffpolicy.evaluation.recorded import SEEDS
from diffpolicy.evaluation.rollout import rollout
from diffpolicy.improvement.base import Work
from diffpolicy.policies.controller import Controller
from diffpolicy.util import files
from diffpolicy.util.errors import require

DONE = "done"
"""Name of an array in a recording of rollouts: of each step whether the task was done after it."""

REWARD = "reward"
"""Name of an array there: the reward of each step."""

LENGTHS = "lengths"
"""Name of the steps of each episode there."""

ROLLOUTS = "rollouts"
"""Name of the recording of a round's episodes."""

APART = 10**9
"""Between the seeds of an episode and of those that repeat its start; those of first tries are below it."""

_AT_ONCE = 256  # episodes between two writes: a kill loses as many at most
_COSTS = "costs"  # the attribute that counts them


@final
class Outcomes(Observer):
    """Keeps of every step whether the task was done after it, and its reward, as two arrays (L,)."""

    name = "outcomes"

    def on_step(self, step: Step) -> None:
        step.episode.observed[self.name].append((bool(step.episode.success_at_end), float(step.reward)))

    def on_end(self, episode: Episode) -> None:
        done, rewards = zip(*episode.observed[self.name], strict=True)
        episode.observed[self.name] = {DONE: np.array(done, np.uint8), REWARD: np.array(rewards, np.float32)}


@dataclass(frozen=True)
class Experience:
    """Rolled-out episodes.

    Args:
        buffer: the observations under the keys that the policy reads, "action", "done" and "reward"; and of each
            episode "seeds", and "success", which is whether the task was done at its last step.
        costs: see `Round.costs`.
    """

    buffer: ReplayBuffer
    costs: dict[str, float]

    @property
    def succeeded(self) -> np.ndarray:
        """(E,) bool, which episodes ended in success."""
        return self.buffer.meta[SUCCESS] == 1


Share = Callable[[int, int], int]
"""From an episode's seed and length to how many of its steps somebody took."""


def gather(
    work: Work,
    agent: Controller,
    *,
    by: str = "the policy",
    resets: Sequence[Reset] | None = None,
    name: str = ROLLOUTS,
    asked: Share = lambda seed, steps: steps,
    budget: int | None = None,
    at_once: int | None = None,
    beyond: int = 0,
) -> Experience:
    """Roll out the episodes of a round, or those that are missing of one that was cut off.

    Args:
        work: the round.
        agent: acts.
        by: who acts, in words: what else than the policy rollouts depend on.
        resets: how the episodes start, by rising seeds; None takes those of the round.
        name: of the recording in the round's folder; only those of the round are taken from `settings.rollouts`.
        asked: how many steps of an episode the policy took; the others are the expert's.
        budget: of the expert's steps: episodes beyond the one that uses it up are left out; None has no such end.
        at_once: episodes between two writes; None takes a few hundred.
        beyond: steps for which an episode that ends in success goes on, so that it does not end on the threshold.

    Raises:
        BrokenEnvironment: the environment broke off all of many episodes.
        ValueError: the folder, or that of `settings.rollouts`, holds rollouts of something else.
    """
    path, settings = work.folder / name, work.settings
    resets = work.resets if resets is None else resets
    keys = list(work.config.observation.vectors)
    attrs = {
        "by": f"{by}, {beyond} steps beyond success" if beyond else by,
        "fps": work.task.fps,
        "policy": dict(work.start.sha256),
        "first_seed": work.first_seed,
        "env": plain(work.make_env.config),
    }
    given = settings.rollouts is not None and name == ROLLOUTS
    if given and work.number == 1 and not path.exists():
        _take(Path(settings.rollouts) / work.folder.name / path.name, path, attrs)
    how = {"envs": settings.envs, "workers": settings.workers, "task": work.task}
    make_env = demonstration_env(work.make_env, steps_after_success=beyond) if beyond else work.make_env
    with alone(path):
        writer, last = EpisodeWriter(path, attrs), resets[-1].seed
        episodes = list(zip(writer.meta.get(SEEDS, []), writer.meta.get(LENGTHS, []), strict=True))
        costs = dict(writer.noted.get(_COSTS, {}))
        left = [one for one in resets if not episodes or one.seed > episodes[-1][0]]
        with tqdm(total=len(resets), initial=len(resets) - len(left), desc=name, unit="episode") as bar:
            while left and _within(episodes, asked, budget) == len(episodes):
                count = at_once or _AT_ONCE
                some, left = left[:count], left[count:]
                began = time.monotonic()
                rolled_out = rollout(agent, make_env, some, [Recorder(keys[0]), Outcomes()], **how)
                for kind, value in _costs(agent, rolled_out, asked, time.monotonic() - began).items():
                    costs[kind] = costs.get(kind, 0) + value
                writer.note({_COSTS: costs})
                for episode in rolled_out:
                    if episode.error is None:
                        _add(writer, episode, keys)
                        episodes.append((episode.seed, episode.steps))
                bar.update(len(some))
    wanted = [one for one in episodes if one[0] <= last]
    return Experience(ReplayBuffer.open(path).subset(range(_within(wanted, asked, budget))), costs)


def check_beyond(steps: int) -> None:
    """Raise ValueError unless options.steps_after_success is a number from 0 on."""
    fits = type(steps) is int and steps >= 0
    require(fits, f"options.steps_after_success={steps!r}", "a number from 0 on")


def again(seeds: Sequence[int], times: int) -> list[Reset]:
    """Return resets that repeat the starts of these episodes, all of them once before any twice; see `original`."""
    return [Reset(int(seed) + n * APART, env_seed=int(seed)) for n in range(1, times + 1) for seed in seeds]


def original(seed: int) -> int:
    """Return the seed of the episode whose start one of `again` repeats, and of any other its own."""
    return seed % APART


def _within(episodes: Sequence[tuple[int, int]], asked: Share, budget: int | None) -> int:
    """How many of these episodes, the first ones, there are up to the one that uses the expert's budget up."""
    if budget is None:
        return len(episodes)
    used = np.cumsum([steps - asked(seed, steps) for seed, steps in episodes])
    return min(len(episodes), int(np.searchsorted(used, budget)) + 1)


def _take(theirs: Path, mine: Path, attrs: Mapping[str, Any]) -> None:
    """Copy the rollouts of another improvement, if they are what is wanted."""
    cure = "give the run_dir of an improvement, or leave it out"
    says = f"rollouts={theirs.parents[1]}: no folder {theirs.parent.name}/{theirs.name} there"
    require(theirs.is_dir(), says, cure=cure)
    partial = mine.with_name(f".{mine.name}{files.PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    with alone(theirs):
        EpisodeWriter(theirs, attrs)  # refuses those of something else
        shutil.copytree(theirs, partial)
    files.rename(partial, mine)


def _add(writer: EpisodeWriter, episode: Episode, keys: Sequence[str]) -> None:
    recorded, outcomes = episode.observed[Recorder.name], episode.observed[Outcomes.name]
    given = "the environment does not say whether an episode succeeded"
    require(episode.success is not None, given, cure="name what says so by env.success=KEY")
    arrays = {name: recorded[name] for name in (*keys, ACTION)}
    numbers = {SEEDS: episode.seed, SUCCESS: int(bool(episode.success_at_end)), LENGTHS: episode.steps}
    writer.add({**arrays, **outcomes}, **numbers)


def _costs(agent: Controller, episodes: Sequence[Episode], asked: Share, seconds: float) -> dict[str, float]:
    mine = [asked(episode.seed, episode.steps) for episode in episodes]
    steps = sum(episode.steps for episode in episodes)
    return {
        "episodes": len(episodes),
        "environment_steps": steps,
        "expert_steps": steps - sum(mine),
        "network_calls": sum(math.ceil(count / agent.replan_every) for count in mine) * agent.calls,
        "rollout_seconds": seconds,
    }
