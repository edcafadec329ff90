"""The one rollout loop: a policy in environments, stepped in lockstep with batched inference.

An episode is a function of the policy and of its seed: how many run side by side, and in how many processes,
changes the time it takes and nothing else. Noise is keyed by (seed, chunk), inference runs in blocks of one
fixed size (`Policy.block`), and every episode gets an environment reset by its own seed.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from diffpolicy.policies.observations import stack
from diffpolicy.policies.policy import ActionQueue, Policy

PAPER_SEEDS = range(100_000, 100_050)
VALIDATION_SEED = 10_000  # 10000 to 10049 choose checkpoints
VALIDATION_EPISODES = 50
REPORT_SEED = 200_000  # reports use fresh seeds from here on
INFERENCE_BLOCK = 32  # rows per network call; rows of a block of 16k rows do not depend on their place in it

MakeEnv = Callable[[], gym.Env]
Reset = tuple[int, dict[str, Any] | None]  # the seed that keys the episode, and reset options (None: env seed)


@dataclass
class EnvConfig:
    """Which environment to roll out in: its gymnasium id and options; no id, no rollouts."""

    id: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def environment(id: str, options: Mapping[str, Any], render_mode: str | None = None) -> MakeEnv:
    """A function that makes the environment.

    Raises:
        ValueError: an id outside diffpolicy's. A gymnasium id can name a module to import, and this one may
            come from a checkpoint that someone else wrote.
    """
    if not id.startswith("diffpolicy/"):
        raise ValueError(f"environment {id!r} is none of this project's; call `rollout` with your own make_env")
    # gymnasium imports the module named before the colon, which registers the environments, here or in a worker.
    return functools.partial(gym.make, f"diffpolicy.envs:{id}", render_mode=render_mode, **options)


@dataclass
class Episode:
    """One rolled-out episode: a row of the report."""

    seed: int
    score: float = 0.0  # maximum over the episode of the reward, clip(coverage / 0.95, 0, 1)
    final_coverage: float = 0.0
    success: bool = False
    steps: int = 0
    way: str | None = None  # which way the task was done, where it can be done in several
    frames: list[np.ndarray] = field(default_factory=list, repr=False)  # of filmed episodes, one per observation
    observations: list[np.ndarray] = field(default_factory=list, repr=False)

    def row(self) -> dict[str, Any]:
        """As plain data, without what was filmed."""
        return {
            "seed": self.seed,
            "score": self.score,
            "final_coverage": self.final_coverage,
            "success": self.success,
            "steps": self.steps,
            **({} if self.way is None else {"way": self.way}),
        }


def episode_resets(seeds: str | int, episodes: int) -> list[Reset]:
    """The initial states of an evaluation: `seeds` is "paper" or the first of `episodes` consecutive seeds.

    Raises:
        ValueError: more episodes than the paper's 50, fewer than one, or a seed that is no number >= 0.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, not {episodes}")
    if seeds == "paper":
        if episodes > len(PAPER_SEEDS):
            raise ValueError(
                f"the paper has {len(PAPER_SEEDS)} seeds; {episodes} episodes were asked for. Take episodes="
                f"{len(PAPER_SEEDS)}, or fresh seeds with seeds={REPORT_SEED}"
            )
        return [(seed, {"paper_seed": seed}) for seed in PAPER_SEEDS[:episodes]]
    try:
        first = int(seeds)
    except ValueError:
        raise ValueError(f"seeds must be 'paper' or a first seed, not {seeds!r}") from None
    if first < 0:
        raise ValueError(f"the first seed must be >= 0, not {first}")
    return [(seed, None) for seed in range(first, first + episodes)]


class _Simulators:
    """Some environments in this process. What a slot does here does not depend on the other slots."""

    def __init__(self, make_env: MakeEnv, slots: Sequence[int]) -> None:
        self._envs = {slot: make_env() for slot in slots}
        self._filming: dict[int, bool] = {}

    def reset(self, resets: Mapping[int, tuple[Reset, bool]]) -> dict[int, tuple[np.ndarray, Any]]:
        return {slot: self._reset(slot, *how) for slot, how in resets.items()}

    def step(self, actions: Mapping[int, np.ndarray]) -> dict[int, tuple[Any, ...]]:
        return {slot: self._step(slot, action) for slot, action in actions.items()}

    def close(self) -> None:
        for env in self._envs.values():
            env.close()

    def _reset(self, slot: int, reset: Reset, film: bool) -> tuple[np.ndarray, Any]:
        seed, options = reset
        self._filming[slot] = film
        obs, _ = self._envs[slot].reset(seed=seed, options=options)
        return obs, self._frame(slot)

    def _step(self, slot: int, action: np.ndarray) -> tuple[Any, ...]:
        obs, reward, terminated, truncated, info = self._envs[slot].step(action)
        outcome = {"coverage": float(info["coverage"]), "success": bool(info["success"]), "way": info.get("way")}
        return obs, float(reward), terminated or truncated, outcome, self._frame(slot)

    def _frame(self, slot: int) -> np.ndarray | None:
        return self._envs[slot].render() if self._filming[slot] else None


def _serve(connection: Any, make_env: MakeEnv, slots: Sequence[int]) -> None:
    """A worker process: answers calls of `_Simulators` methods until its pipe closes."""
    simulators = _Simulators(make_env, slots)
    try:
        while True:
            method, argument = connection.recv()
            try:
                connection.send((getattr(simulators, method)(argument), None))
            except Exception as error:
                connection.send((None, error))
    except EOFError:
        simulators.close()


class _Workers:
    """The slots dealt out to worker processes, called as if they were here."""

    def __init__(self, make_env: MakeEnv, slots: Sequence[int], workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._owner = {slot: index % workers for index, slot in enumerate(slots)}
        self._pipes, self._processes = [], []
        for worker in range(workers):
            here, there = context.Pipe()
            own = [slot for slot in slots if self._owner[slot] == worker]
            process = context.Process(target=_serve, args=(there, make_env, own), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def reset(self, resets: Mapping[int, Any]) -> dict[int, Any]:
        return self._call("reset", resets)

    def step(self, actions: Mapping[int, np.ndarray]) -> dict[int, Any]:
        return self._call("step", actions)

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=10)

    def _call(self, method: str, arguments: Mapping[int, Any]) -> dict[int, Any]:
        asked = []
        for worker, pipe in enumerate(self._pipes):
            share = {slot: value for slot, value in arguments.items() if self._owner[slot] == worker}
            if share:
                pipe.send((method, share))
                asked.append(pipe)
        answers: dict[int, Any] = {}
        for pipe in asked:
            try:
                answer, error = pipe.recv()
            except EOFError:
                raise RuntimeError("an environment's worker process died; run with workers=0 to see why") from None
            if error is not None:
                raise error
            answers.update(answer)
        return answers


@contextmanager
def _simulators(make_env: MakeEnv, slots: Sequence[int], workers: int) -> Iterator[_Simulators | _Workers]:
    made = _Workers(make_env, slots, min(workers, len(slots))) if workers else _Simulators(make_env, slots)
    try:
        yield made
    finally:
        made.close()


def rollout(
    policy: Policy,
    make_env: MakeEnv,
    resets: Sequence[Reset],
    *,
    envs: int = 50,
    workers: int = 0,
    film: int = 0,
    progress: bool = False,
) -> list[Episode]:
    """Roll out one episode per reset and return them in that order.

    Args:
        policy: with a fixed `block`, episodes do not depend on `envs`.
        make_env: makes one environment (to be pickled when there are workers); `info` gives "coverage" and "success".
        resets: see `episode_resets`.
        envs: environments side by side.
        workers: processes that step them; 0 steps them here.
        film: keep the rendered frames and observations of the first `film` episodes (needs render_mode="rgb_array").
        progress: show a progress bar.

    Raises:
        ValueError: envs or workers out of range, or what the policy or the environment refuses.
    """
    if envs < 1 or workers < 0 or not resets:
        raise ValueError(
            f"need envs >= 1, workers >= 0 and some episodes; given {envs=}, {workers=}, {len(resets)} episodes"
        )
    episodes = [Episode(seed) for seed, _ in resets]
    queue = ActionQueue(policy)
    queue.reset()
    slots = range(min(envs, len(resets)))
    waiting = iter(range(len(resets)))
    running: dict[int, int] = {}  # slot -> number of its episode
    obs: dict[int, np.ndarray] = {}
    clock = 0
    bar = tqdm(total=len(resets), desc="rollout", unit="episode", disable=not progress, leave=False)
    with _simulators(make_env, slots, workers) as simulators, bar:
        while True:
            # New episodes begin only where a chunk begins, so that all slots ask for chunks at the same steps.
            if not running or clock % policy.action_horizon == 0:
                clock = 0
                free = [slot for slot in slots if slot not in running]
                fresh = dict(zip(free, waiting, strict=False))
                queue.reset(list(fresh), [resets[number][0] for number in fresh.values()])
                begun = simulators.reset({slot: (resets[n], n < film) for slot, n in fresh.items()})
                for slot, (first, frame) in begun.items():
                    running[slot], obs[slot] = fresh[slot], first
                    _keep(episodes[fresh[slot]], first, frame)
            if not running:
                break
            active = sorted(running)
            actions = queue.act(stack([obs[slot] for slot in active]), active)
            outcomes = simulators.step(dict(zip(active, actions, strict=True)))
            for slot, (after, reward, done, outcome, frame) in outcomes.items():
                episode = episodes[running[slot]]
                obs[slot] = after
                episode.steps += 1
                episode.score = max(episode.score, reward)
                episode.final_coverage, episode.way = outcome["coverage"], outcome["way"]
                episode.success = episode.success or outcome["success"]
                _keep(episode, after, frame)
                if done:
                    del running[slot]
                    bar.update()
            clock += 1
    return episodes


def _keep(episode: Episode, obs: np.ndarray, frame: np.ndarray | None) -> None:
    if frame is not None:
        episode.observations.append(obs)
        episode.frames.append(frame)
