"""Record demonstrations by an environment's expert."""

from __future__ import annotations

import importlib.metadata
import math
import multiprocessing
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import numpy as np
from tqdm import tqdm

from diffpolicy.config.commands import RecordConfig
from diffpolicy.datasets.recorder import EpisodeRecorder, digest
from diffpolicy.envs.experts import EXPERTS
from diffpolicy.evaluation.rollout import environment
from diffpolicy.util.stats import wilson

HOPELESS = 50  # failures in a row after which there is no point in going on
MEMORY = 0.8  # correlation of the actions' error from one step to the next: white noise the agent would smooth out
_NOISE = 1  # keeps the error's stream of random numbers apart from the environment's and the expert's
_PACKAGES = ("diffpolicy", "numpy", "pymunk", "zarr")


def demonstrate(
    env_id: str,
    options: Mapping[str, Any],
    seed: int,
    noise: float = 0.0,
    start_seed: int | None = None,
    reset: Mapping[str, Any] | None = None,
    linger: int = 0,
) -> dict[str, np.ndarray] | None:
    """One episode by the expert, `state` (L, D) and `action` (L, 2) float32; None if it does not succeed.

    Args:
        seed: of the expert's choice and of the noise, and of the environment unless `start_seed` is given.
        noise, linger: see `RecordConfig`.
        reset: options of the environment's reset.
    """
    env, expert = environment(env_id, options)(), EXPERTS[env_id](seed, options)
    obs, info = env.reset(seed=seed if start_seed is None else start_seed, options=reset)
    expert.reset(info)
    draw, error = np.random.default_rng([seed, _NOISE]), np.zeros(2)
    states, actions = [], []
    left = None  # steps still to record, once the episode has ended
    while left != 0:
        action = np.asarray(expert.act(info), np.float32)
        states.append(obs)
        actions.append(action)
        error = MEMORY * error + math.sqrt(1.0 - MEMORY**2) * noise * draw.standard_normal(2)
        obs, _, terminated, truncated, info = env.step(action + error)
        if left is not None:
            left -= 1
        elif terminated or truncated:
            left = linger if info["success"] else 0
    return {"state": np.array(states), "action": np.array(actions)} if info["success"] else None


def record(config: RecordConfig) -> str:
    """Record demonstrations as the settings say, and return what to tell about them."""
    counts = (config.episodes, config.workers, 1 if config.starts is None else config.starts)
    if min(counts) < 1 or min(config.seed, config.steps_after_success) < 0 or not 0 <= config.noise < math.inf:
        raise ValueError(
            f"need episodes >= 1, workers >= 1, starts >= 1 and seed, linger, noise >= 0; given {config.episodes=}, "
            f"{config.workers=}, {config.starts=}, {config.seed=}, {config.steps_after_success=}, {config.noise=}"
        )
    if config.env.id not in EXPERTS:
        raise ValueError(f"no expert for env.id={config.env.id!r}; there are experts for {', '.join(EXPERTS)}")
    if "obs_mode" in config.env.options:
        raise ValueError(
            "recordings hold the state, from which other observations follow: leave env.options.obs_mode"
        )
    environment(config.env.id, config.env.options)().close()  # refuses bad options before anything is written
    attrs = {
        "env": {"id": config.env.id, "options": dict(config.env.options)},
        "expert": EXPERTS[config.env.id].settings,
        "first_seed": config.seed,
        "noise": config.noise,
        **({"starts": config.starts} if config.starts else {}),
        **({"linger": config.steps_after_success} if config.steps_after_success else {}),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    recorder = EpisodeRecorder(config.out, attrs)
    done = len(recorder.seeds)
    following = recorder.seeds[-1] + 1 if done else config.seed
    failed = 0
    bar = tqdm(total=config.episodes, initial=done, desc="demonstrations", unit="episode")
    context = multiprocessing.get_context("spawn")
    with bar, ProcessPoolExecutor(config.workers, context) as pool:
        waiting: deque[tuple[int, Future[dict[str, np.ndarray] | None]]] = deque()
        while len(recorder.seeds) < config.episodes:
            while len(waiting) < 2 * config.workers:
                count = following - config.seed
                start = config.seed + (count % config.starts if config.starts else count)
                how = (config.env.id, config.env.options, following, config.noise, start)
                waiting.append((following, pool.submit(demonstrate, *how, linger=config.steps_after_success)))
                following += 1
            seed, future = waiting.popleft()
            episode = future.result()
            failed = 0 if episode else failed + 1
            if episode:
                recorder.add(episode, seed)
                bar.update()
            elif failed == HOPELESS:
                raise ValueError(f"the expert failed {HOPELESS} times in a row: this task is not for it")
        pool.shutdown(cancel_futures=True)
    rate = wilson(len(recorder.seeds), recorder.seeds[-1] + 1 - config.seed)
    return (
        f"{len(recorder.seeds)} episodes of {recorder.seeds[-1] + 1 - config.seed} tried: the expert succeeds in "
        f"{rate['mean']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]\nSHA-256 {digest(config.out)}: {config.out}"
    )
