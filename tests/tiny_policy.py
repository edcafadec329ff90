"""A tiny policy of any method, untrained, its checkpoint, and observations for it; shared by all tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffpolicy import checkpoint
from diffpolicy.config import PolicyConfig, RunConfig, plain
from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.datasets.spec import Field, ObservationSpec
from diffpolicy.policies import Chunk, ChunkModel, PlanRequest, Policy, build_model, build_policy

T_O, T_P, T_A, D, A = 2, 16, 8, 5, 2
WINDOWS = 50
NET = {"name": "unet1d", "widths": [8, 16], "groups": 4, "time_features": 8}
METHODS: dict[str, dict[str, Any]] = {
    "flow": {"name": "generative", "path": {"name": "linear"}, "prediction": "velocity", "steps": 3},
    "ddpm": {
        "name": "generative",
        "path": {"name": "ddpm", "steps": 20},
        "prediction": "noise",
        "times": "discrete",
        "solver": "ddim",
        "steps": 3,
        "clip": 1.0,
    },
    "mean_flow": {"name": "mean_flow", "path": {"name": "linear"}},
    "tokens": {"name": "tokens", "levels": 16, "width": 4, "steps": 3},
    "refined": {"name": "refined", "path": {"name": "linear"}, "prediction": "velocity", "width": 8, "steps": 3},
    "two_step": {"name": "two_step"},
    "regression": {"name": "regression"},
    "lstm_gmm": {"name": "lstm_gmm", "hidden": 16, "modes": 2},
    "nearest": {"name": "nearest"},
}
CAMERAS = {"front": (16, 16, 3), "wrist": (12, 14, 1)}
ENCODER = {"name": "image", "crop": 12, "widths": [8], "keypoints": 3}


def config(
    method: str | Mapping[str, Any] = "flow",
    cameras: Mapping[str, Sequence[int]] | None = None,
    t_a: int | None = None,
    **changes: Any,
) -> RunConfig:
    """Return the config of a tiny run.

    Args:
        method: a name of `METHODS`, or the section itself.
        cameras: name -> shape of the images, beside the vectors "agent" and "grip".
        t_a: T_a; None takes that of the method.
        changes: further sections.
    """
    section = dict(METHODS[method] if isinstance(method, str) else method)
    horizons = PolicyConfig(10, 10, 1) if section["name"] == "lstm_gmm" else PolicyConfig(T_O, T_P, T_A)
    if t_a is not None:
        horizons.action_horizon = t_a
    made = RunConfig(run_dir="tiny", policy=horizons, method=section, net=dict(NET))
    made.found.kind = "policy"
    made.found.windows = WINDOWS if section["name"] == "nearest" else None
    if cameras:
        made.encoder = dict(ENCODER)
        made.observation.vectors, made.observation.images = ["agent", "grip"], list(cameras)
    for name, value in changes.items():
        setattr(made, name, value)
    made.found.observation = spec(cameras).to_plain()
    return made


def spec(cameras: Mapping[str, Sequence[int]] | None = None, dim: int = D) -> ObservationSpec:
    """Return what is observed: `dim` numbers, or with cameras their images beside 2 + 1 numbers."""
    if not cameras:
        return ObservationSpec({"obs": Field("vector", (dim,))})
    images = {name: Field("image", tuple(shape)) for name, shape in cameras.items()}
    return ObservationSpec({"agent": Field("vector", (2,)), "grip": Field("vector", (1,)), **images})


def normalizer(dim: int = D) -> Normalizer:
    rng = np.random.default_rng(0)
    return Normalizer.fit({"obs": rng.uniform(0, 512, (99, dim)), "action": rng.uniform(100, 400, (99, A))})


def windows(count: int = WINDOWS, dim: int = D, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return normalized windows as a batch."""
    source = torch.Generator().manual_seed(seed)
    return {
        "obs": (torch.rand(count, T_O * dim, generator=source) * 2 - 1).unflatten(1, (T_O, dim)),
        "action": torch.rand(count, T_P, A, generator=source) * 2 - 1,
    }


def model(run: RunConfig, seed: int = 0) -> ChunkModel:
    """Return the untrained model of a tiny run."""
    torch.manual_seed(seed)
    made = build_model(run, ObservationSpec.from_plain(run.found.observation), A)
    if not made.learns:
        made.remember([windows()])
    return made.eval()


def policy(
    method: str | Mapping[str, Any] = "flow", cameras: Any = None, t_a: int | None = None, **options: Any
) -> Policy:
    """Return an untrained policy; `options` are those of `build_policy`."""
    run = config(method, cameras, t_a)
    observed = ObservationSpec.from_plain(run.found.observation)
    return build_policy(run, observed, model(run), normalizer(observed.vector_dim), **options)


def save(folder: Path, run: RunConfig, made: ChunkModel | None = None, step: int = 7) -> Path:
    """Write the checkpoint of a tiny run and return its path."""
    tensors = (made or model(run)).state_dict()
    dim = ObservationSpec.from_plain(run.found.observation).vector_dim
    groups = {"model": tensors, "ema": tensors, "normalizer": normalizer(dim).to_tensors()}
    return checkpoint.write(folder, step, groups, plain(run), {})


def observations(count: int, steps: int | None = T_O, cameras: Any = None, seed: int = 0) -> Any:
    """Return observation histories, or with `steps`=None observations of one moment."""
    rng, leading = np.random.default_rng(seed), (count,) if steps is None else (count, steps)
    if not cameras:
        return rng.uniform(0, 512, (*leading, D)).astype(np.float32)
    return {
        **{name: rng.integers(0, 256, (*leading, *shape), np.uint8) for name, shape in cameras.items()},
        "agent": rng.uniform(0, 512, (*leading, 2)).astype(np.float32),
        "grip": rng.uniform(0, 512, (*leading, 1)).astype(np.float32),
        "unused": np.zeros(leading),
    }


class Episodes:
    """Asks a policy chunk after chunk, as an agent does, from histories that are given.

    Args:
        policy: what is asked.
        seeds: one per episode.
    """

    def __init__(self, policy: Policy, seeds: Sequence[int] = (42,)) -> None:
        self.policy, self.seeds, self.number = policy, list(seeds), 0
        self.memory: list[Any] | None = None

    def next(self, obs: Any) -> Chunk:
        keys = [(seed, self.number) for seed in self.seeds]
        chunk = self.policy.plan(PlanRequest(obs, keys, self.memory))
        self.number, self.memory = self.number + 1, chunk.memory
        return chunk
