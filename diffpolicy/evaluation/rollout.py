"""The one rollout loop: a policy in environments, stepped in lockstep with batched inference.

An episode is a function of the policy and of its seed: how many run side by side, and in how many processes,
changes the time it takes and nothing else. Noise is keyed by (seed, chunk), inference runs in blocks of one
fixed size (`Policy.block`) on one thread, and every episode gets an environment reset by its own seed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from tqdm import tqdm

from diffpolicy.evaluation.shards import Tick, run_shards, usable_cores
from diffpolicy.policies.observations import stack
from diffpolicy.policies.policy import ActionQueue, Policy

PAPER_SEEDS = range(100_000, 100_050)
VALIDATION_SEED = 10_000  # 10000 to 10049 choose checkpoints
VALIDATION_EPISODES = 50
REPORT_SEED = 200_000  # reports use fresh seeds from here on
INFERENCE_BLOCK = 32  # rows per network call; rows of a block of 16k rows do not depend on their place in it

MakeEnv = Callable[[], gym.Env]
Reset = tuple[int, dict[str, Any] | None]  # the seed that keys the episode, and reset options (None: env seed)


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
    mode: str | None = None  # in which mode the task was done, where it has several
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
            **({} if self.mode is None else {"mode": self.mode}),
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


def rollout(
    policy: Policy,
    make_env: MakeEnv,
    resets: Sequence[Reset],
    *,
    envs: int = 64,
    workers: int | None = 0,
    film: int = 0,
    progress: bool = False,
) -> list[Episode]:
    """Roll out one episode per reset and return them in that order.

    Args:
        policy: with a fixed `block`, episodes do not depend on `envs` and `workers`.
        make_env: makes one environment; `info` gives "coverage" and "success". With workers it is pickled, as the
            policy is.
        resets: see `episode_resets`.
        envs: environments side by side, in each process; best a multiple of the policy's `block`.
        workers: processes to deal the episodes out to, each with its own copy of the policy; 0 rolls out in this
            one, None is as many as pay: one for every block of episodes, but no more than there are cores, and none
            for a policy on a GPU.
        film: keep the rendered frames and observations of the first `film` episodes (needs render_mode="rgb_array").
        progress: show a progress bar.

    Raises:
        ValueError: envs or workers out of range, a policy or `make_env` that cannot be pickled for the workers, or
            what the policy or the environment refuses.
        RuntimeError: a worker died.
    """
    if envs < 1 or (workers or 0) < 0 or not resets:
        raise ValueError(
            f"need envs >= 1, workers >= 0 (None for as many as pay) and some episodes; given {envs=}, {workers=}, "
            f"{len(resets)} episodes"
        )
    workers = _workers_that_pay(policy, len(resets)) if workers is None else min(workers, len(resets))
    work = functools.partial(_roll, policy, make_env, envs)
    with tqdm(total=len(resets), desc="rollout", unit="episode", disable=not progress, leave=False) as bar:
        if workers == 0:
            return work((resets, film), bar.update)[0]
        # Dealt out in turn, so that all have about as much to do and whatever drifts along the seeds falls on all.
        shares = [(resets[k::workers], len(range(k, film, workers))) for k in range(workers)]
        shards = run_shards(work, shares, bar.update)
    episodes = [Episode(seed) for seed, _ in resets]
    for k, (own, _) in enumerate(shards):
        episodes[k::workers] = own
    policy.calls = max(calls for _, calls in shards)  # as if it had acted here
    return episodes


def _workers_that_pay(policy: Policy, episodes: int) -> int:
    if policy.actor.device.type != "cpu":
        return 0  # the GPU does most of the work, and every process would take its share of the GPU's memory
    workers = min(usable_cores(), math.ceil(episodes / INFERENCE_BLOCK))
    return workers if workers > 1 else 0


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread, and put its number of threads back afterwards.

    How a matrix product is split between threads can change the last bit of its result: measured on networks of
    widths 256, 512, 1024 in blocks of 32 rows, 1 and 2 threads agree and 3 do not. Episodes must not depend on the
    machine's cores, nor a worker's differ from those rolled out here. More cores are for more workers; threads of one
    product wait for each other, which takes ten times as long where a core is busy with something else.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _roll(
    policy: Policy, make_env: MakeEnv, envs: int, share: tuple[Sequence[Reset], int], tick: Tick
) -> tuple[list[Episode], int]:
    """The loop itself: a share of resets, of which the first few are filmed, to episodes and calls for a chunk."""
    resets, film = share
    episodes = [Episode(seed) for seed, _ in resets]
    queue = ActionQueue(policy)
    queue.reset()
    waiting = iter(range(len(resets)))
    running: dict[int, int] = {}  # slot -> number of its episode
    obs: dict[int, np.ndarray] = {}
    clock = 0
    with ExitStack() as opened:
        opened.enter_context(_one_thread())
        slots = [opened.enter_context(closing(make_env())) for _ in range(min(envs, len(resets)))]
        while True:
            # New episodes begin only where a chunk begins, so that all slots ask for chunks at the same steps.
            if not running or clock % policy.action_horizon == 0:
                clock = 0
                free = [slot for slot in range(len(slots)) if slot not in running]
                fresh = dict(zip(free, waiting, strict=False))
                queue.reset(list(fresh), [resets[number][0] for number in fresh.values()])
                for slot, number in fresh.items():
                    seed, options = resets[number]
                    running[slot] = number
                    obs[slot], _ = slots[slot].reset(seed=seed, options=options)
                    if number < film:
                        _keep(episodes[number], obs[slot], slots[slot])
            if not running:
                return episodes, policy.calls
            active = sorted(running)
            actions = queue.act(stack([obs[slot] for slot in active]), active)
            for slot, action in zip(active, actions, strict=True):
                episode = episodes[running[slot]]
                obs[slot], reward, terminated, truncated, info = slots[slot].step(action)
                episode.steps += 1
                episode.score = max(episode.score, float(reward))
                episode.final_coverage, episode.mode = float(info["coverage"]), info.get("mode")
                episode.success = episode.success or bool(info["success"])
                if running[slot] < film:
                    _keep(episode, obs[slot], slots[slot])
                if terminated or truncated:
                    del running[slot]
                    tick()
            clock += 1


def _keep(episode: Episode, obs: np.ndarray, env: gym.Env) -> None:
    episode.observations.append(obs)
    episode.frames.append(env.render())
