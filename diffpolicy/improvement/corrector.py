"""A corrector is fitted to the recording: what was done at a step, beside what a chunk had planned for it before."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from diffpolicy.config import RunConfig
from diffpolicy.datasets import WindowDataset, load_training_episodes
from diffpolicy.evaluation.adapters import EnvFactory
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.improvement.base import Improvement, Round, Work, check_numbers, kept, learn, trained
from diffpolicy.policies import PlanRequest, Policy, build_model, load_policy
from diffpolicy.policies.models.around import AroundModel
from diffpolicy.util.device import pick_device
from diffpolicy.util.errors import require

_NAME = "corrected"
_BLOCK = 256
_PLANNED = "planned.safetensors"


@final
class Corrector(Improvement):
    """Learn what to add to each planned action from what is observed when it is due; see `CorrectedModel`.

    It rolls nothing out, and needs no environment.

    Args:
        chunks: planned in states of the recording, from which it learns.
        draws: chunks that are sampled in each of these states. The one that is nearest to what was done there counts:
            beside a chunk that goes another way it would learn to go the way between the two.
        width: see `CorrectedModel`.
    """

    rolls_out = False

    def __init__(self, chunks: int = 8192, draws: int = 8, width: int = 256) -> None:
        fits = all(type(one) is int and one >= 1 for one in (chunks, draws))
        require(fits, f"options.chunks={chunks!r}, options.draws={draws!r}", "at least 1 of each")
        self.chunks, self.draws, self.options = chunks, draws, {"width": width}

    def check(self, policy: Policy, make_env: EnvFactory | None, task: TaskSpec | None) -> None:
        check_numbers(policy)
        plain = not isinstance(policy.model, AroundModel)
        given = f"a policy of {type(policy.model).__name__}"
        require(plain, given, "one whose actions nothing changes", "correct the policy that it was made of")
        given = "dataset.representations of actions that are relative to what is observed"
        require(not policy.representations.moves, given, "actions that mean the same at every step")

    def improve(self, work: Work) -> Round:
        config, settings = work.config, work.settings
        method = {"name": _NAME, "base": config.method, "actions": config.policy.action_horizon, **self.options}
        run = replace(config, run_dir=str(work.folder), seed=settings.seed, training=settings.training, method=method)
        run = replace(run, init_from=str(work.start.path))
        planned = kept(work.folder / _PLANNED, functools.partial(self._plan, work))
        train_it = functools.partial(self._train, work, run, Planned(planned))
        last, seconds = trained(work.folder, settings.training.steps, train_it)
        spent = {"network_calls": int(planned["calls"]), "training_seconds": float(planned["seconds"]) + seconds}
        return Round(last, {"environment_steps": 0, "rollout_seconds": 0, **spent})

    def _plan(self, work: Work) -> dict[str, Tensor]:
        policy = load_policy(work.start.path, device=pick_device(work.settings.device), block=_BLOCK)
        return planned_beside(work.config, policy, self.chunks, self.draws, work.settings.seed)

    def _train(self, work: Work, run: RunConfig, planned: Planned) -> Path:
        device = pick_device(work.settings.device)
        policy = load_policy(work.start.path, device=device)
        torch.manual_seed(run.seed)
        model = build_model(run, policy.observation, policy.action_dim)
        model.base.load_state_dict(policy.model.state_dict())
        return learn(work, run, model, planned, device, "float32")


@final
class Planned:
    """What a corrector learns from, by number.

    Args:
        arrays: from `planned_beside`.
    """

    def __init__(self, arrays: Mapping[str, Tensor]) -> None:
        self._arrays = {name: arrays[name] for name in ("obs", "planned", "demonstrated", "place")}

    def __len__(self) -> int:
        return len(self._arrays["place"])

    def batch(self, numbers: Tensor) -> dict[str, Tensor]:
        """Return a batch for `CorrectedModel.loss`.

        Args:
            numbers: (B,) int64.
        """
        return {name: array[numbers.cpu()] for name, array in self._arrays.items()}


def planned_beside(config: RunConfig, policy: Policy, chunks: int, draws: int, seed: int) -> dict[str, Tensor]:
    """Return actions that chunks planned for the steps of a recording, beside what was done and observed there.

    Args:
        config: of the policy's training, whose episodes they are.
        policy: plans the chunks.
        chunks: how many, in states drawn without repetition; all where there are fewer.
        draws: see `Corrector`.
        seed: of the states that are drawn, and of the chunks' noise.

    Returns:
        "obs" (N, D), "planned" and "demonstrated" (N, A), normalized, and "place" (N,) int64, as
        `CorrectedModel.loss` takes them; and what it cost, "calls" of the network and "seconds", (,) each.
    """
    began, t_o = time.monotonic(), policy.obs_horizon
    episodes, keys = load_training_episodes(config), list(policy.observation.vectors)
    windows = WindowDataset(episodes, keys, config.dataset.action_key, t_o, t_o, 1)  # one for every frame
    ends = np.repeat(episodes.episode_ends, episodes.episode_lengths)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(windows))[:chunks])
    frames, count = torch.from_numpy(chosen), policy.horizon - t_o + 1
    lasts = torch.from_numpy(ends[chosen] - 1)[:, None]
    every = windows.batch(torch.minimum(frames[:, None] + torch.arange(count), lasts).flatten())
    seen = policy.normalizer.apply(policy.representations.apply({"obs": every["obs"]}))["obs"]
    done = policy.normalized(every["action"], every["obs"])[:, -1]
    obs = windows.batch(frames)["obs"]
    planned, calls = _nearest(policy, obs, done.unflatten(0, (-1, count)), draws, seed)
    return {
        "obs": seen[:, -1].contiguous(),
        "planned": planned,
        "demonstrated": done.contiguous(),
        "place": (t_o - 1 + torch.arange(count)).repeat(len(frames)),
        "calls": torch.tensor(calls),
        "seconds": torch.tensor(time.monotonic() - began),
    }


def _nearest(policy: Policy, obs: Tensor, done: Tensor, draws: int, seed: int) -> tuple[Tensor, int]:
    """Return the actions (N·T, A) of the chunk nearest to what was done (N, T, A), of several each; and the calls."""
    found, calls = list[Tensor](), 0
    for start in tqdm(range(0, len(obs), _BLOCK), desc="chunks", unit="block", leave=False):
        some, wanted, drawn = obs[start : start + _BLOCK], done[start : start + _BLOCK], list[Tensor]()
        for number in range(draws):
            keys = [(seed, start + i, number) for i in range(len(some))]
            chunk = policy.plan(PlanRequest(some.numpy(), keys))
            calls += int(chunk.calls.sum())
            drawn.append(policy.normalized(torch.from_numpy(chunk.trajectory), some)[:, policy.obs_horizon - 1 :])
        several = torch.stack(drawn, 1)
        away = (several - wanted[:, None]).square().flatten(2).sum(-1)
        found.append(several[torch.arange(len(some)), away.argmin(1)].flatten(0, 1))
    return torch.cat(found), calls
