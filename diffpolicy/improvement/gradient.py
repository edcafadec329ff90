"""The policy gradient through the sampler: what succeeded becomes more probable, what failed less."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from diffpolicy import checkpoint as checkpoints
from diffpolicy.config import RunConfig
from diffpolicy.datasets import ReplayBuffer, WindowDataset
from diffpolicy.evaluation import INFERENCE_BLOCK
from diffpolicy.evaluation.adapters import EnvFactory
from diffpolicy.evaluation.episode import Reset
from diffpolicy.evaluation.observers import ACTION
from diffpolicy.evaluation.recorded import SEEDS
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.improvement.base import Improvement, Round, Work, learn, trained
from diffpolicy.improvement.experience import DONE, again, gather, original
from diffpolicy.policies import Agent, Policy, build_model, load_policy
from diffpolicy.policies.chunking import SamplingContext
from diffpolicy.policies.models.chain import ChainModel, check_chain
from diffpolicy.util.device import pick_device
from diffpolicy.util.errors import require
from diffpolicy.util.seeds import generator
from diffpolicy.util.stats import wilson

_NAME = "chain"
_BASE = "base."
_AT_ONCE = 1024


@final
class PolicyGradient(Improvement):
    """Train the policy on by what its own noisy rollouts brought, round by round; see `ChainModel`.

    Every start is rolled out several times, and an episode is judged by what it brought beyond the others of its
    start (leave-one-out; Ahmadian et al. 2024): γ^k where the task was done after k steps, and 0 where it was not.

    Args:
        group: how often every start is rolled out; a round has `episodes` divided by it starts.
        discount: γ, of a control step, in (0, 1).
        scale: see `ChainModel`.
        clip: see `ChainModel`.
    """

    def __init__(self, group: int = 4, discount: float = 0.99, scale: float = 0.05, clip: float = 0.05) -> None:
        require(0 < discount < 1, f"options.discount={discount}", "a number in (0, 1)")
        require(type(group) is int and group >= 2, f"options.group={group!r}", "at least 2, to be compared")
        self.group, self.discount = group, discount
        self.options = {"scale": scale, "clip": clip}

    def check(self, policy: Policy, make_env: EnvFactory, task: TaskSpec) -> None:
        super().check(policy, make_env, task)
        check_chain(policy.model)

    def improve(self, work: Work) -> Round:
        config, settings = work.config, work.settings
        starts = settings.episodes // self.group
        require(starts, f"episodes={settings.episodes} of options.group={self.group}", "at least one group")
        method = {"name": _NAME, "base": config.method, "actions": config.policy.action_horizon, **self.options}
        run = replace(config, run_dir=str(work.folder), seed=settings.seed, training=settings.training, method=method)
        run = replace(run, init_from=str(work.start.path), env=work.make_env.config)
        policy = self._explorer(run, work)
        first = [Reset(work.first_seed + number) for number in range(starts)]
        resets = [*first, *again([one.seed for one in first], self.group - 1)]
        by = f"the policy, with noise of {self.options['scale']} in each step, {self.group} times from each start"
        experience = gather(work, Agent(policy), by=by, resets=resets)
        found = {"success_before": wilson(int(experience.succeeded.sum()), experience.buffer.n_episodes)}
        train_it = functools.partial(self._train, work, run, policy, experience.buffer)
        last, seconds = trained(work.folder, settings.training.steps, train_it)
        return Round(_base_of(last, work.folder / "policy"), {**experience.costs, "training_seconds": seconds}, found)

    def _explorer(self, run: RunConfig, work: Work) -> Policy:
        policy = load_policy(work.start.path, device=work.settings.device, block=INFERENCE_BLOCK)
        before, model = policy.model, build_model(run, policy.observation, policy.action_dim)
        assert isinstance(model, ChainModel)
        model.base.load_state_dict(before.state_dict())
        model.explore = True
        policy.model = model.to(before.device).eval()
        return policy

    def _train(self, work: Work, run: RunConfig, policy: Policy, buffer: ReplayBuffer) -> Path:
        device = pick_device(work.settings.device)
        steps = Steps(buffer, policy, advantages(buffer, self.discount), device)
        return learn(work, run, policy.model, steps, device, work.settings.speed)


def advantages(buffer: ReplayBuffer, discount: float) -> np.ndarray:
    """Return what each episode brought beyond the others of its start, (E,), in their standard deviation.

    Raises:
        ValueError: no episode brought anything else than the others of its start.
    """
    done, frames = buffer[DONE], buffer.episode_slices()
    brought = np.array([_brought(done[part], discount) for part in frames])
    starts = np.array([original(int(seed)) for seed in buffer.meta[SEEDS]])
    found = np.zeros(len(brought))
    for start in np.unique(starts):
        own = starts == start
        count = int(own.sum())
        if count > 1:
            found[own] = brought[own] - (brought[own].sum() - brought[own]) / (count - 1)
    given = f"no episode of {len(brought)} brought anything else than the others of its start"
    require(bool(found.any()), given, cure="roll out more of them into another run_dir, or take more options.scale")
    return found / found[found != 0].std() if (found != 0).sum() > 1 else np.sign(found)


def _brought(done: np.ndarray, discount: float) -> float:
    return discount ** float(np.argmax(done)) if done.any() else 0.0


@final
class Steps:
    """The noisy steps of all chains of some episodes, as `ChainModel.loss` takes them.

    Args:
        buffer: the episodes.
        policy: of the `ChainModel` that drew them.
        advantage: (E,) of the episodes; those of 0 are left out.
        device: where batches are wanted.
    """

    def __init__(self, buffer: ReplayBuffer, policy: Policy, advantage: np.ndarray, device: torch.device) -> None:
        model = policy.model
        assert isinstance(model, ChainModel)
        t_o, t_a = policy.obs_horizon, policy.action_horizon
        windows = WindowDataset(buffer, list(policy.observation.vectors), ACTION, t_o - 1 + t_a, t_o, t_a)
        parts = [
            (part, int(seed), value)
            for part, seed, value in zip(buffer.episode_slices(), buffer.meta[SEEDS], advantage, strict=True)
            if value
        ]
        frames = [torch.arange(part.start, part.stop, t_a) for part, _, _ in parts]
        keys = [(seed, k) for (_, seed, _), own in zip(parts, frames, strict=True) for k in range(len(own))]
        values = [value for (_, _, value), own in zip(parts, frames, strict=True) for _ in own]
        obs, found = windows.batch(torch.cat(frames))["obs"], []
        for i in range(0, len(keys), _AT_ONCE):
            seen = obs[i : i + _AT_ONCE].to(model.device)
            seen = policy.normalizer.apply(policy.representations.apply({"obs": seen}))["obs"]
            draws = [generator(*key) for key in keys[i : i + _AT_ONCE]]
            with torch.no_grad():
                states, means, _ = model.chain(
                    model.condition({"obs": seen}), draws, SamplingContext(policy.temperature)
                )
            probable = torch.stack([model.log_prob(*pair) for pair in zip(states[1:-1], means[:-1], strict=True)])
            found.append(tuple(one.cpu() for one in (seen, states.transpose(0, 1), probable.t())))
        seen, states, probable = (torch.cat(one) for one in zip(*found, strict=True))
        self._obs, self._states, self._log_prob = (one.to(device) for one in (seen, states, probable))
        self._advantage = torch.tensor(values, dtype=torch.float32, device=device)
        process = model._base.process
        self._times = process.times.to(device)
        self._count = probable.shape[1]

    def __len__(self) -> int:
        return len(self._obs) * self._count

    def batch(self, steps: Tensor) -> Mapping[str, Any]:
        """Return a batch for `ChainModel.loss`.

        Args:
            steps: (B,) int64.
        """
        chunk, k = steps // self._count, steps % self._count
        return {
            "obs": self._obs[chunk],
            "x": self._states[chunk, k],
            "after": self._states[chunk, k + 1],
            "t": self._times[k],
            "s": self._times[k + 1],
            "log_prob": self._log_prob[chunk, k],
            "advantage": self._advantage[chunk],
        }


def _base_of(trained_to: Path, folder: Path) -> Path:
    """Write the policy inside of a trained chain as a checkpoint of its own, and return its path."""
    saved = checkpoints.read(trained_to)
    weights = {name.removeprefix(_BASE): value for name, value in saved.tensors("ema").items()}
    groups = {"ema": weights, "normalizer": saved.tensors("normalizer")}
    config = {**saved.config, "method": saved.config["method"]["base"]}
    return checkpoints.write(folder, saved.step, groups, config, saved.state)
