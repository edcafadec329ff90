"""A corrector is fitted to the recording: what was done at a step, beside what a chunk had planned for it before."""

from __future__ import annotations

import functools
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
from diffpolicy.improvement.base import Improvement, Round, Work, check_numbers, learn, trained
from diffpolicy.policies import PlanRequest, Policy, build_model, load_policy
from diffpolicy.policies.models.around import AroundModel
from diffpolicy.util.device import pick_device
from diffpolicy.util.errors import require

_NAME = "corrected"
_BLOCK = 256


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
        train_it = functools.partial(self._train, work, run)
        last, seconds = trained(work.folder, settings.training.steps, train_it)
        return Round(
            last, {"environment_steps": 0, "network_calls": 0, "rollout_seconds": 0, "training_seconds": seconds}
        )

    def _train(self, work: Work, run: RunConfig) -> Path:
        device = pick_device(work.settings.device)
        policy = load_policy(work.start.path, device=device, block=_BLOCK)
        torch.manual_seed(run.seed)
        model = build_model(run, policy.observation, policy.action_dim)
        model.base.load_state_dict(policy.model.state_dict())
        return learn(
            work, run, model, Planned(work.config, policy, self.chunks, self.draws, run.seed), device, "float32"
        )


@final
class Planned:
    """Actions that chunks planned for the steps of a recording, beside what was done and observed there.

    Args:
        config: of the policy's training, whose episodes they are.
        policy: plans the chunks.
        chunks: how many, in states drawn without repetition; all where there are fewer.
        draws: see `Corrector`.
        seed: of the states that are drawn, and of the chunks' noise.
    """

    def __init__(self, config: RunConfig, policy: Policy, chunks: int, draws: int, seed: int) -> None:
        episodes, t_o = load_training_episodes(config), policy.obs_horizon
        keys = list(policy.observation.vectors)
        windows = WindowDataset(episodes, keys, config.dataset.action_key, t_o, t_o, 1)  # one for every frame
        ends = np.repeat(episodes.episode_ends, episodes.episode_lengths)
        chosen = np.sort(np.random.default_rng(seed).permutation(len(windows))[:chunks])
        frames = torch.from_numpy(chosen)
        count = policy.horizon - t_o + 1
        lasts = torch.from_numpy(ends[chosen] - 1)[:, None]
        every = windows.batch(torch.minimum(frames[:, None] + torch.arange(count), lasts).flatten())
        seen = policy.normalizer.apply(policy.representations.apply({"obs": every["obs"]}))["obs"]
        done = policy.normalized(every["action"], every["obs"])[:, -1]
        self._arrays = {
            "obs": seen[:, -1],
            "planned": _nearest(policy, windows.batch(frames)["obs"], done.unflatten(0, (-1, count)), draws, seed),
            "demonstrated": done,
            "place": (t_o - 1 + torch.arange(count)).repeat(len(frames)),
        }

    def __len__(self) -> int:
        return len(self._arrays["place"])

    def batch(self, numbers: Tensor) -> dict[str, Tensor]:
        """Return a batch for `CorrectedModel.loss`.

        Args:
            numbers: (B,) int64.
        """
        return {name: array[numbers.cpu()] for name, array in self._arrays.items()}


def _nearest(policy: Policy, obs: Tensor, done: Tensor, draws: int, seed: int) -> Tensor:
    """Return the actions (N·T, A) of the chunk that is nearest to what was done (N, T, A), of several for each."""
    found = list[Tensor]()
    for start in tqdm(range(0, len(obs), _BLOCK), desc="chunks", unit="block", leave=False):
        some, wanted, drawn = obs[start : start + _BLOCK], done[start : start + _BLOCK], list[Tensor]()
        for number in range(draws):
            keys = [(seed, start + i, number) for i in range(len(some))]
            chunk = torch.from_numpy(policy.plan(PlanRequest(some.numpy(), keys)).trajectory)
            drawn.append(policy.normalized(chunk, some)[:, policy.obs_horizon - 1 :])
        several = torch.stack(drawn, 1)
        away = (several - wanted[:, None]).square().flatten(2).sum(-1)
        found.append(several[torch.arange(len(some)), away.argmin(1)].flatten(0, 1))
    return torch.cat(found)
