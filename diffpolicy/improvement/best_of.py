"""Best of N: a critic is learned from rollouts and chooses among sampled chunks; the policy stays as it is."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from diffpolicy.config import RunConfig
from diffpolicy.datasets import WindowDataset
from diffpolicy.evaluation.adapters import EnvFactory
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.improvement.base import Improvement, Round, Work, learn, trained
from diffpolicy.improvement.experience import DONE, Experience, gather
from diffpolicy.improvement.replay import chunked
from diffpolicy.policies import Policy, build_model
from diffpolicy.policies.models.best_of import BestOfModel
from diffpolicy.util.device import pick_device
from diffpolicy.util.errors import require
from diffpolicy.util.stats import wilson

_NAME = "best_of"


@final
class BestOf(Improvement):
    """Learn a critic of chunks from the policy's own rollouts, those that failed among them.

    Args:
        candidates: chunks among which it chooses.
        discount: of a control step, in (0, 1): how much less what comes a step later counts.
        expectile: see `BestOfModel`.
        width: see `BestOfModel`.
        critics: see `BestOfModel`.
    """

    def __init__(
        self,
        candidates: int = 16,
        discount: float = 0.99,
        expectile: float = 0.7,
        width: int = 512,
        critics: int = 2,
    ) -> None:
        require(0 < discount < 1, f"options.discount={discount}", "a number in (0, 1)")
        self.discount = discount
        self.options = {"candidates": candidates, "expectile": expectile, "width": width, "critics": critics}

    def check(self, policy: Policy, make_env: EnvFactory, task: TaskSpec) -> None:
        super().check(policy, make_env, task)
        model = policy.model
        draws = isinstance(model, BestOfModel) or "noise" in model.supported_execution
        given = f"{type(model).__name__} does not start from noise"
        require(draws, given, "a method that does, such as flow", "take method=filtered")

    def improve(self, work: Work) -> Round:
        policy, config, settings = work.policy(), work.config, work.settings
        experience = gather(work, work.agent())
        succeeded, tried = int(experience.succeeded.sum()), experience.buffer.n_episodes
        found = {"success_before": wilson(succeeded, tried)}
        base = config.method["base"] if config.method["name"] == _NAME else config.method
        method = {"name": _NAME, "base": base, "actions": policy.action_horizon, **self.options}
        run = replace(config, run_dir=str(work.folder), seed=settings.seed, method=method, training=settings.training)
        run = replace(run, init_from=str(work.start.path), env=work.make_env.config)
        train_it = functools.partial(self._train, work, policy, run, experience)
        last, seconds = trained(work.folder, settings.training.steps, train_it)
        return Round(last, {**experience.costs, "training_seconds": seconds}, found)

    def _train(self, work: Work, policy: Policy, run: RunConfig, experience: Experience) -> Path:
        device = pick_device(work.settings.device)
        torch.manual_seed(run.seed)
        model = build_model(run, policy.observation, policy.action_dim)
        before = policy.model
        model.base.load_state_dict((before.base if isinstance(before, BestOfModel) else before).state_dict())
        if isinstance(before, BestOfModel):
            model.load_state_dict(before.state_dict())  # its critics too
        transitions = Transitions(experience, policy, self.discount, device)
        return learn(work, run, model, transitions, device, "float32")


@final
class Transitions:
    """What was done in every frame of rollouts, and what came of it T_a steps later.

    Args:
        experience: the rollouts.
        policy: says how frames are observed and normalized, and T_o and T_a.
        discount: see `BestOf`.
        device: where batches are wanted.

    Raises:
        ValueError: no success, of which something could be learned.
    """

    def __init__(self, experience: Experience, policy: Policy, discount: float, device: torch.device) -> None:
        buffer = experience.buffer
        t_o, t_a = policy.obs_horizon, policy.action_horizon
        keys, horizon = list(policy.observation.vectors), t_o - 1 + t_a
        self._windows = WindowDataset(buffer, keys, "action", horizon, t_o, t_a, device)  # one for every frame
        self._policy = policy
        given = f"no success in {buffer.n_episodes} episodes, and there is nothing to learn from them"
        require(bool(buffer[DONE].any()), given, cure="roll out more of them into another run_dir")
        sums, factors, following = (
            np.concatenate(parts)
            for parts in zip(
                *(chunked(buffer[DONE][frames], t_a, discount, frames.start) for frames in buffer.episode_slices()),
                strict=True,
            )
        )
        self._sums = torch.from_numpy(sums.astype(np.float32)).to(device)
        self._factors = torch.from_numpy(factors.astype(np.float32)).to(device)
        self._following = torch.from_numpy(following).to(device)

    def __len__(self) -> int:
        return len(self._windows)

    def batch(self, frames: Tensor) -> dict[str, Tensor]:
        """Return a batch for `BestOfModel.loss`.

        Args:
            frames: (B,) int64.
        """
        now, after = self._windows.batch(frames), self._windows.batch(self._following[frames])
        seen, next_seen = (self._seen(part["obs"]) for part in (now, after))
        return {
            "obs": seen,
            "action": self._policy.normalized(now["action"], now["obs"]),
            "reward": self._sums[frames],
            "discount": self._factors[frames],
            "next_obs": next_seen,
        }

    def _seen(self, obs: Tensor) -> Tensor:
        policy = self._policy
        return policy.normalizer.apply(policy.representations.apply({"obs": obs}))["obs"]
