"""What a policy did: whole episodes with their rewards, as a recording that a killed run goes on with."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from tqdm import tqdm

from diffpolicy.datasets import EpisodeWriter, ReplayBuffer
from diffpolicy.datasets.convert import SUCCESS
from diffpolicy.datasets.writer import alone
from diffpolicy.evaluation.episode import Episode, Step
from diffpolicy.evaluation.observers import ACTION, Observer, Recorder
from diffpolicy.evaluation.recorded import SEEDS
from diffpolicy.evaluation.rollout import require_whole, rollout
from diffpolicy.improvement.base import Work
from diffpolicy.policies.controller import Controller
from diffpolicy.util import files
from diffpolicy.util.errors import require

REWARD, DONE = "reward", "done"
"""Names of arrays in a recording of rollouts: of each step its reward, and whether the task was done after it."""

_AT_ONCE = 256  # episodes between two writes: a kill loses as many at most
_COSTS = "costs"  # the attribute that counts them


@final
class Outcomes(Observer):
    """Keeps of every step its reward, and whether the task was done after it: arrays (L,) by name."""

    name = "outcomes"

    def on_step(self, step: Step) -> None:
        step.episode.observed[self.name].append((float(step.reward), bool(step.episode.success_at_end)))

    def on_end(self, episode: Episode) -> None:
        rewards, done = zip(*episode.observed[self.name], strict=True)
        episode.observed[self.name] = {REWARD: np.array(rewards, np.float32), DONE: np.array(done, np.uint8)}


@dataclass(frozen=True)
class Experience:
    """Rolled-out episodes.

    Args:
        buffer: the observations under the keys that the policy reads, "action", "reward" and "done"; and of each
            episode "seeds", and "success", which is whether the task was done at its last step.
        costs: see `Round.costs`.
    """

    buffer: ReplayBuffer
    costs: dict[str, float]

    @property
    def succeeded(self) -> np.ndarray:
        """(E,) bool, which episodes ended in success."""
        return self.buffer.meta[SUCCESS] == 1


def gather(
    work: Work,
    agent: Controller,
    enough: Callable[[Sequence[int], Sequence[int]], bool] | None = None,
    by: str = "the policy",
) -> Experience:
    """Roll out the episodes of a round, or those that are missing of one that was cut off.

    Args:
        work: the round; its folder gets "rollouts".
        agent: acts.
        enough: says from the seeds and the lengths of the episodes so far whether to stop early.
        by: who acts, in words: what else than the policy rollouts depend on.

    Raises:
        BrokenEnvironment: the environment broke off all of many episodes.
        ValueError: the folder holds rollouts of something else.
    """
    path, settings = work.folder / "rollouts", work.settings
    keys = list(work.config.observation.vectors)
    attrs = {
        "by": by,
        "fps": work.task.fps,
        "policy": dict(work.start.sha256),
        "first_seed": work.first_seed,
        "env": {"id": work.make_env.id, "options": dict(work.make_env.kwargs)},
    }
    observers = [Recorder(keys[0]), Outcomes()]
    if settings.rollouts is not None and work.number == 1 and not path.exists():
        _take(Path(settings.rollouts) / work.folder.name / path.name, path)
    with alone(path):
        writer = EpisodeWriter(path, attrs)
        seeds, lengths = list(writer.meta.get(SEEDS, [])), list(writer.meta.get("lengths", []))
        costs = dict(writer.noted.get(_COSTS, {}))
        left = [how for how in work.resets if not seeds or how.seed > seeds[-1]]
        with tqdm(
            total=len(work.resets), initial=len(work.resets) - len(left), desc="rollouts", unit="episode"
        ) as bar:
            while left and not (enough is not None and enough(seeds, lengths)):
                some, left = left[:_AT_ONCE], left[_AT_ONCE:]
                began = time.monotonic()
                episodes = rollout(
                    agent,
                    work.make_env,
                    some,
                    observers,
                    envs=settings.envs,
                    workers=settings.workers,
                    task=work.task,
                )
                require_whole(episodes)
                for name, value in _costs(agent, episodes, time.monotonic() - began).items():
                    costs[name] = costs.get(name, 0) + value
                writer.note({_COSTS: costs})
                for episode in episodes:
                    if episode.error is None:
                        _add(writer, episode, keys)
                        seeds.append(episode.seed)
                        lengths.append(episode.steps)
                bar.update(len(some))
    return Experience(ReplayBuffer.open(path), costs)


def _take(theirs: Path, mine: Path) -> None:
    """Copy the rollouts of another improvement; whether they are what is wanted, their attributes say."""
    cure = "give the run_dir of an improvement, or leave it out"
    require(
        theirs.is_dir(),
        f"rollouts={theirs.parents[1]}: no folder {theirs.parent.name}/{theirs.name} there",
        cure=cure,
    )
    partial = mine.with_name(f".{mine.name}{files.PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(theirs, partial)
    files.rename(partial, mine)


def _add(writer: EpisodeWriter, episode: Episode, keys: Sequence[str]) -> None:
    recorded, outcomes = episode.observed[Recorder.name], episode.observed[Outcomes.name]
    given = "the environment does not say whether an episode succeeded"
    require(episode.success is not None, given, cure="name what says so by env.success=KEY")
    arrays = {name: recorded[name] for name in (*keys, ACTION)}
    numbers = {SEEDS: episode.seed, SUCCESS: int(bool(episode.success_at_end)), "lengths": episode.steps}
    writer.add({**arrays, **outcomes}, **numbers)


def _costs(agent: Controller, episodes: Sequence[Episode], seconds: float) -> dict[str, float]:
    chunks = sum(math.ceil(episode.steps / agent.replan_every) for episode in episodes)
    return {
        "episodes": len(episodes),
        "environment_steps": sum(episode.steps for episode in episodes),
        "network_calls": chunks * agent.calls,
        "rollout_seconds": seconds,
    }
