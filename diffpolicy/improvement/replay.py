"""What was done chunk by chunk, and what it brought: what actors and critics learn from off-policy."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from diffpolicy.datasets import ReplayBuffer, WindowDataset
from diffpolicy.evaluation.observers import ACTION
from diffpolicy.evaluation.recorded import SEEDS
from diffpolicy.improvement.experience import DONE, REWARD, original
from diffpolicy.policies import PlanRequest, Policy
from diffpolicy.policies.models.residual import ResidualModel
from diffpolicy.util.errors import require
from diffpolicy.util.seeds import generator

_AT_ONCE = 1024  # chunks that are proposed together
REWARDS = ("success", "environment")


def chunked(
    done: np.ndarray, actions: int, discount: float, first: int = 0, rewards: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of every step what the chunk that starts there brings: three arrays (L,).

    Doing the task brings 1. With rewards r, what counts is (1 − γ)·Σ γ^k·r_k, in which the reward of the step that
    does the task stays for ever: ending an episode early costs nothing that way. If r is 1 there and 0 elsewhere,
    both are the same.

    Args:
        done: (L,) whether the task was done after each of an episode's steps.
        actions: n, of a chunk.
        discount: γ, of a step.
        first: frame of the first step.
        rewards: (L,) of the steps.

    Returns:
        sums: γ^k·r_k where the chunk's step k < n is the first that does the task, and (1 − γ)·γ^k·r_k of the steps
            before; zeros and ones without rewards.
        factors: γ^n, or 0 where the task was done or the episode over before the chunk was.
        following: the frame in which the next chunk starts, n steps later; the last one where the episode is over.
    """
    steps, length = np.arange(len(done)), len(done)
    doing = np.append(np.flatnonzero(done), length + actions)  # the last one: never
    left = doing[np.searchsorted(doing, steps)] - steps  # steps until the task is done
    last = np.minimum(steps + np.minimum(left, actions), length - 1)
    sums = np.where(left < actions, discount ** left.astype(float) * (1 if rewards is None else rewards[last]), 0.0)
    if rewards is not None:
        for k in range(actions):
            inside = (k < left) & (steps + k < length)
            sums += np.where(inside, (1 - discount) * discount**k * rewards[np.minimum(steps + k, length - 1)], 0.0)
    goes_on = (left >= actions) & (steps + actions < length)
    return sums, np.where(goes_on, discount**actions, 0.0), first + np.minimum(steps + actions, length - 1)


@dataclass(frozen=True)
class Source:
    """Episodes of which something is learned.

    Args:
        buffer: with the policy's observations, "action", "done", and "reward" where rewards count.
        policy: of a `ResidualModel`, which drew their chunks.
        rolled_out: whether it did; of demonstrations nobody knows what would have been proposed, and the policy's
            own proposals, with noise of the episode's number, stand in.
    """

    buffer: ReplayBuffer
    policy: Policy
    rolled_out: bool = True


@final
class Replay:
    """The chunks of episodes, as `ResidualModel.loss` takes them.

    Args:
        parts: from `chunks_of`, of policies around the same base.
        device: where batches are wanted.

    Raises:
        ValueError: each of them brings the same.
    """

    def __init__(self, parts: Sequence[Mapping[str, Tensor]], device: torch.device) -> None:
        shift = np.cumsum([0, *(len(part["following"]) for part in parts)])
        moved = [{**part, "following": part["following"] + int(n)} for part, n in zip(parts, shift, strict=False)]
        self._arrays = {name: torch.cat([part[name] for part in moved]).to(device) for name in parts[0]}
        rewards = self._arrays["reward"]
        given = f"each of {len(rewards)} chunks brings {float(rewards[0]):g}, and there is nothing to learn from that"
        cure = "roll out more of them into another run_dir, or take another options.reward"
        require(bool((rewards != rewards[0]).any()), given, cure=cure)

    def __len__(self) -> int:
        return len(self._arrays["reward"])

    def batch(self, chunks: Tensor) -> dict[str, Tensor]:
        """Return a batch for `ResidualModel.loss`.

        Args:
            chunks: (B,) int64.
        """
        following = self._arrays["following"][chunks]
        now = {name: self._arrays[name][chunks] for name in ("obs", "proposed", "taken", "reward", "discount")}
        return now | {f"next_{name}": self._arrays[name][following] for name in ("obs", "proposed")}


def chunks_of(source: Source, discount: float, reward: str) -> dict[str, Tensor]:
    """Return of every chunk of some episodes what was observed, proposed and taken, and what it brought.

    Args:
        source: the episodes.
        discount: of a control step.
        reward: "success" or "environment".

    Returns:
        "obs" (N, T_o, D) normalized; "proposed" and "taken" (N, n), see `ResidualModel`; "reward" and "discount"
        (N,), see `chunked`; "following" (N,) int64, the next chunk of the episode.
    """
    buffer, policy = source.buffer, source.policy
    t_o, t_a = policy.obs_horizon, policy.action_horizon
    windows = WindowDataset(buffer, list(policy.observation.vectors), ACTION, t_o - 1 + t_a, t_o, t_a)
    frames = [torch.arange(part.start, part.stop, t_a) for part in buffer.episode_slices()]
    seeds = buffer.meta[SEEDS] if source.rolled_out else np.arange(buffer.n_episodes)
    keys = [(original(int(seed)), k) for seed, some in zip(seeds, frames, strict=True) for k in range(len(some))]
    batch = windows.batch(torch.cat(frames))
    obs, proposed, taken = _drawn(policy, batch["obs"], keys)
    if not source.rolled_out:
        taken = policy.normalized(batch["action"], batch["obs"])[:, t_o - 1 :].flatten(1)
    sums, factors, following, first = [], [], [], 0
    for part, own in zip(buffer.episode_slices(), frames, strict=True):
        rewards = buffer[REWARD][part] if reward == "environment" else None
        brought, left, _ = chunked(buffer[DONE][part], t_a, discount, rewards=rewards)
        at, count = (own - part.start).numpy(), len(own)
        sums.append(torch.from_numpy(brought[at].astype(np.float32)))
        factors.append(torch.from_numpy(left[at].astype(np.float32)))
        following.append(first + torch.arange(1, count + 1).clamp(max=count - 1))
        first += count
    numbers = {"reward": torch.cat(sums), "discount": torch.cat(factors), "following": torch.cat(following)}
    found = {"obs": obs, "proposed": proposed, "taken": taken, **numbers}
    return {name: values.contiguous() for name, values in found.items()}


def _drawn(policy: Policy, obs: Tensor, keys: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Observations (N, T_o, D) normalized, what was proposed (N, n), and what was taken (N, n)."""
    model = policy.model
    assert isinstance(model, ResidualModel)
    base = copy.copy(policy)
    base.model = model.base
    found = []
    for i in range(0, len(keys), _AT_ONCE):
        seen, some = obs[i : i + _AT_ONCE].to(model.device), keys[i : i + _AT_ONCE]
        normalized = policy.normalizer.apply(policy.representations.apply({"obs": seen}))["obs"]
        draws = [generator(*key) for key in some]
        with torch.no_grad():
            told = model.condition({"obs": normalized}).vector
            if model.place == "noise":
                proposed = model.proposed_noise(draws, policy.temperature, told)
            else:
                chunk = torch.from_numpy(base.plan(PlanRequest(seen.cpu().numpy(), some)).trajectory)
                proposed = model.executed(policy.normalized(chunk.to(model.device), seen))
            drawn = (normalized, proposed, model.taken(told, proposed, draws))
            found.append(tuple(one.cpu() for one in drawn))
    obs, proposed, taken = (torch.cat(parts) for parts in zip(*found, strict=True))
    return obs, proposed, taken
