"""Policies from configs and from checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import torch

from diffpolicy import checkpoint
from diffpolicy.config import RunConfig, load_config
from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.nets.vision import CameraEncoder
from diffpolicy.policies.actors import Actor
from diffpolicy.policies.execution import Execution
from diffpolicy.policies.observations import Cameras
from diffpolicy.policies.policy import Policy
from diffpolicy.policies.pretrained import load_pretrained
from diffpolicy.policies.vision import VisionActor
from diffpolicy.registry import build


def build_actor(config: RunConfig, obs_dim: int, action_dim: int, begins: bool = False) -> Actor:
    """The untrained actor that a run's config describes (its sections `method`, `net` and `policy`).

    With `cameras`, name -> (H, W, C) of the pictures, it has an encoder for each, built from the section `encoder`,
    in which may stand beside what the encoder is made of:

        weights   where training begins, see `load_pretrained`
        frozen    the trunk keeps these weights; its last layer, the spatial softmax, is trained
        shared    one encoder for all cameras, whose pictures must have one shape

    Methods with a network of their own do without the section `net`; one that remembers its training data reads
    `windows`, how many they are.

    Args:
        begins: a training does: `weights` are read, which later are in its checkpoints, and actions beyond what the
            method can draw are refused.

    Raises:
        ValueError: unknown names or options, with the near ones; sizes or options that do not fit together;
            a normaliser of actions beyond what the method can draw; cameras of a method that learns nothing.
        FileNotFoundError, CheckpointError: as `load_pretrained`.
    """
    policy, cameras = config.policy, _cameras(config)
    encoders = _encoders(config.encoder, cameras) if cameras else {}
    weights = config.encoder.get("weights")
    if weights and not cameras:
        raise ValueError(f"encoder.weights={weights} is for pictures, and these observations have none")
    offered = {"obs_horizon": policy.obs_horizon, "net": config.net or None, "windows": config.found.windows}
    actor = build(
        "model",
        config.method,
        {name: value for name, value in offered.items() if value is not None},
        dim=action_dim,
        cond_dim=policy.obs_horizon * (obs_dim + sum(encoder.features for encoder in encoders.values())),
        horizon=policy.horizon,
    )
    normalize = config.dataset.normalize.get("action", "limits")
    needed = 1 if normalize == "limits" else 2  # standard deviations: beyond the first there are always some
    if begins and actor.bound < needed:
        raise ValueError(
            f"this method holds actions within ±{actor.bound:g} ({config.method}), and some lie outside by "
            f"dataset.normalize.action={normalize}, limits being ±1: take limits, or another method.clip where there "
            "is one (null for none)"
        )
    if not encoders:
        return actor
    if not any(parameter.requires_grad for parameter in actor.parameters()):
        raise ValueError(
            f"method {config.method['name']!r} learns nothing, and so no encoder of the pictures of "
            f"{sorted(encoders)}: observe numbers alone, or choose another method"
        )
    seeing = VisionActor(actor, encoders)
    if begins and weights:
        load_pretrained(seeing.encoders, weights)
    return seeing


def _encoders(section: Mapping[str, Any], cameras: Mapping[str, Sequence[int]]) -> dict[str, CameraEncoder]:
    """Camera -> its encoder, which is the same for all where they share one."""
    spec = {key: value for key, value in section.items() if key not in ("weights", "frozen", "shared")}
    shapes = {name: tuple(shape) for name, shape in cameras.items()}
    if section.get("shared") and len(set(shapes.values())) > 1:
        raise ValueError(
            f"encoder.shared=true is for cameras whose pictures have one shape; these have {shapes}: crop or scale "
            "them to one size when recording, or take encoder.shared=false"
        )
    if section.get("frozen") and not section.get("weights"):
        raise ValueError("encoder.frozen=true keeps pretrained weights: say which by encoder.weights")
    encoders: dict[str, CameraEncoder] = {}
    for name, shape in shapes.items():
        if section.get("shared") and encoders:
            encoders[name] = next(iter(encoders.values()))
            continue
        try:
            encoders[name] = build("encoder", spec, shape=shape)
        except ValueError as error:
            raise ValueError(f"camera {name!r}: {error}") from error
        encoders[name].trunk.requires_grad_(not section.get("frozen"))
    return encoders


def observed_by(config: RunConfig) -> Cameras | None:
    """What the policy of a run's config sees beside numbers; None if it sees none."""
    cameras = _cameras(config)
    return Cameras(cameras, config.observation.vectors) if cameras else None


def _cameras(config: RunConfig) -> dict[str, Sequence[int]]:
    return {key: one["shape"] for key, one in config.found.observation.items() if one["kind"] == "image"}


def load_policy(
    path: str | FilePath,
    solver: str | None = None,
    steps: int | None = None,
    grid: str | None = None,
    solver_options: Mapping[str, Any] | None = None,
    action_horizon: int | None = None,
    weights: str = "ema",
    device: str | torch.device = "cpu",
    block: int | None = None,
    freeze: bool = False,
    compile: bool = False,
    execution: Execution | None = None,
) -> Policy:
    """The trained policy of a checkpoint, ready to act. Nothing is unpickled.

    Args:
        path: a checkpoint's folder, such as RUN/checkpoints/best.
        solver, steps, grid, solver_options: how actions are sampled; None keeps the training's setting.
        action_horizon: T_a, actions executed per chunk; None keeps the training's.
        weights: "ema" (the moving average, the better one) or "model" (the last step's).
        device: where the network runs.
        block: rows per network call, see `Policy`.
        freeze: lay the network out for acting, where it has a way to (`ConditionalUnet1D.freeze`): faster for one
            robot, equal up to rounding.
        compile: freeze, and compile calls of `block` rows (one, without a block). Takes a minute or two here, and
            half of it once the compiler has seen the network; a chunk then takes a fourth.
        execution: how chunks are executed beside T_a, see `Policy`.

    Raises:
        CheckpointError: a missing, half-written or damaged checkpoint, or one whose weights do not fit.
        ValueError: settings the policy cannot use.
    """
    if weights not in ("ema", "model"):
        raise ValueError(f"weights must be 'ema' or 'model', not {weights!r}")
    saved = checkpoint.read(path)
    config = load_config(saved.config)
    if config.found.kind != "policy":
        raise checkpoint.CheckpointError(f"{path} is no policy's checkpoint: it is one of {config.found.kind}")
    normalizer = Normalizer.from_tensors(saved.tensors("normalizer"))
    actor = build_actor(config, normalizer.dim("obs"), normalizer.dim("action"))
    checkpoint.load_weights(actor, saved.tensors(weights), path)
    actor.configure(solver, steps, grid, solver_options)
    horizons = config.policy
    actor.to(device).eval().requires_grad_(False)
    policy = Policy(
        actor,
        normalizer,
        horizons.obs_horizon,
        horizons.horizon,
        horizons.action_horizon if action_horizon is None else action_horizon,
        block,
        observed_by(config),
        execution,
    )
    if compile:
        can = any(hasattr(net, "freeze") for net in actor.networks())
        says = "compiling the policy for acting, which takes a minute or two"
        print(says if can else "this network is not compiled for acting: it acts as it is", file=sys.stderr)
    if freeze or compile:
        actor.freeze((block or 1) if compile else None)
    return policy
