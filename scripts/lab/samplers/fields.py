"""What samplers are tried on: networks that have learned points, action chunks or digits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffpolicy import Agent, checkpoint, load_policy
from diffpolicy.config import SamplerConfig, load_config
from diffpolicy.evaluation import episode_resets, policy_env, simulate
from diffpolicy.evaluation.episode import second_difference
from diffpolicy.generative import GenerativeProcess, LinearPath
from diffpolicy.generative.shapes import randn
from diffpolicy.images import load_generator
from diffpolicy.nets import MLP
from diffpolicy.policies.policy import PlanRequest
from diffpolicy.util.errors import require

FIRST_SEED = 300_000  # of initial states, labels and noise; neither chooses nor reports anything elsewhere
POINTS, HISTORIES, DIGITS = 2000, 256, 100


class Learned(ABC):
    """A network that has learned, with fixed conditions and fixed noise."""

    name: str
    unit: str
    """Of distances between samples."""

    @abstractmethod
    def configure(self, sampler: SamplerConfig) -> None:
        """Set the sampler.

        Raises:
            ValueError: it does not fit the path.
        """

    @abstractmethod
    def draw(self) -> tuple[np.ndarray, int]:
        """Return samples (N, ...) by the sampler that is set, and network calls."""

    def unsteadiness(self, samples: np.ndarray) -> float | None:
        """Return how unsteady samples are; None where that means nothing."""
        return None

    @property
    def source(self) -> dict[str, Any]:
        """What was sampled, as plain data."""
        return {}


class Points(Learned):
    """Two moons, learned in half a minute by a small network on the linear path."""

    name, unit = "points", "of the data's standard deviation"

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self._net, self._process = MLP(dim=2), GenerativeProcess(LinearPath(), "velocity")
        optimizer = torch.optim.Adam(self._net.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3000)
        for _ in range(3000):
            optimizer.zero_grad()
            self._process.loss(self._net, {"data": moons(256)}, None).mean().backward()
            optimizer.step()
            schedule.step()
        self._net.requires_grad_(False)
        self._noise = randn((POINTS, 2), torch.Generator().manual_seed(FIRST_SEED), dtype=torch.float32, device="cpu")
        self._scale = float(moons(10_000).std())

    def configure(self, sampler: SamplerConfig) -> None:
        """Set the sampler."""
        self._process.configure(sampler.solver, sampler.steps, sampler.grid, sampler.options)

    def draw(self) -> tuple[np.ndarray, int]:
        """Return points (N, 2) in units of the data's standard deviation, and network calls."""
        points, calls = self._process.draw(self._process.field(self._net), self._noise, None, None)
        return points.numpy() / self._scale, calls


def moons(count: int) -> Tensor:
    """Return points (count, 2) of two interleaved half circles."""
    angle, side = torch.rand(count, 1) * torch.pi, torch.randint(0, 2, (count, 1)) * 2 - 1
    return torch.cat([side * angle.cos() + side / 2, side * angle.sin() - side / 4], dim=1)


class Chunks(Learned):
    """A policy's action chunks, for histories of observations that it came to itself.

    Args:
        path: its checkpoint.
    """

    name, unit = "policy", "in units of actions"

    def __init__(self, path: Path) -> None:
        self._policy, self._path = load_policy(path), path
        fits = len(self._policy.observation) == 1 and self._policy.obs_dim and self._policy.obs_horizon <= 2
        says = f"{path} observes {', '.join(self._policy.observation)} at {self._policy.obs_horizon} steps"
        require(fits, says, "one vector at one or two steps", "study another policy")
        self._histories = _histories(path)

    def configure(self, sampler: SamplerConfig) -> None:
        """Set the sampler."""
        self._policy.model.configure(sampler)

    def draw(self) -> tuple[np.ndarray, int]:
        """Return chunks (N, T, A) in units of actions, and network calls."""
        keys = [(FIRST_SEED + number, 0) for number in range(len(self._histories))]
        chunks = self._policy.plan(PlanRequest(self._histories, keys))
        return chunks.trajectory, int(chunks.calls[0])

    def unsteadiness(self, samples: np.ndarray) -> float:
        """Return the mean second difference of chunks (N, T, A)."""
        return float(np.mean([second_difference(chunk) for chunk in samples]))

    @property
    def source(self) -> dict[str, Any]:
        """The checkpoint's step, digest and settings of training."""
        return _source(self._path)


def _histories(path: Path) -> np.ndarray:
    """Return observations (N, obs_horizon, D) along rollouts, one at every planning of as many episodes as needed."""
    config = load_config(checkpoint.read(path).config)
    agent, make_env, found = Agent(load_policy(path)), policy_env(config, given=config.env), []
    before: dict[int, Any] = {}
    with closing(simulate(agent, make_env, episode_resets(FIRST_SEED, 64), envs=16)) as steps:
        for now in steps:
            for step in now:
                first = before.get(step.env_id, step.obs) if step.episode.steps > 1 else step.obs
                before[step.env_id] = step.obs
                if step.planned:
                    found.append(np.stack([first, step.obs][-agent.policy.obs_horizon :]))
            if len(found) >= HISTORIES:
                break
    return np.stack(found[:HISTORIES])


class Digits(Learned):
    """Digits, without guidance.

    Args:
        path: checkpoint of a generator of images.
    """

    name, unit = "digits", "root mean square over pixels in [-1, 1]"

    def __init__(self, path: Path) -> None:
        self._generator, self._path = load_generator(path), path
        self._labels = torch.arange(10).repeat_interleave(DIGITS // 10)

    def configure(self, sampler: SamplerConfig) -> None:
        """Set the sampler."""
        self._generator.configure(sampler)

    def draw(self) -> tuple[np.ndarray, int]:
        """Return images (N, C, H, W), and network calls."""
        seeds = [torch.Generator().manual_seed(FIRST_SEED + number) for number in range(DIGITS)]
        drawn = self._generator.draw(self._labels, seeds, guidance=1.0)
        return drawn.images.numpy(), drawn.calls

    @property
    def source(self) -> dict[str, Any]:
        """The checkpoint's step, digest and settings of training."""
        return _source(self._path)


def _source(path: Path) -> dict[str, Any]:
    saved = checkpoint.read(path)
    return {"step": saved.step, "sha256": saved.sha256["ema.safetensors"], "config": saved.config}


def distance(samples: np.ndarray, fine: np.ndarray) -> float:
    """Return the root mean square distance of samples (N, ...) from those of the same noise, over all numbers."""
    return float(np.sqrt(np.square(samples.astype(np.float64) - fine).mean()))
