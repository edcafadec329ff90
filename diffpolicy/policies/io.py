"""Policies from a run's config and from checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diffpolicy import checkpoint
from diffpolicy.config import ExecutionConfig, RunConfig, SamplerConfig, load_config
from diffpolicy.datasets.normalizer import Normalizer, modes_of
from diffpolicy.datasets.representations import Representations
from diffpolicy.datasets.spec import ObservationSpec
from diffpolicy.nets.base import Network
from diffpolicy.policies.encoders import EncodedModel, build_encoders
from diffpolicy.policies.execution import check_temperature
from diffpolicy.policies.instructions import build_instructed, token_dim
from diffpolicy.policies.models.around import AroundModel
from diffpolicy.policies.models.base import ChunkModel, ModelSpec
from diffpolicy.policies.models.capabilities import Corrects
from diffpolicy.policies.policy import Policy
from diffpolicy.policies.pretrained import load_pretrained
from diffpolicy.registry import build, lookup
from diffpolicy.util.errors import require


def build_model(
    config: RunConfig, observation: ObservationSpec, action_dim: int, *, for_training: bool = False
) -> ChunkModel:
    """Return the untrained model that a run's config describes (its sections method, net, encoder and policy).

    Args:
        config: of the run.
        observation: what is observed; each camera gets an encoder, see `build_encoders`.
        action_dim: A, numbers per action, as recorded.
        for_training: True when training starts from scratch: `encoder.weights` are read, which later stand in the
            run's checkpoints, and a method that cannot draw all demonstrated actions is refused.

    Raises:
        ValueError: unknown names or options; sizes or options that do not fit together; cameras of a method that
            learns nothing.
        FileNotFoundError: no weights at `encoder.weights`.
        CheckpointError: weights that do not fit the encoder.
    """
    cameras = observation.images
    encoders = build_encoders(config.encoder, cameras)
    weights = config.encoder.get("weights")
    require(
        cameras or not weights, f"encoder.weights={weights}", "images to encode, and nothing but vectors is observed"
    )
    represented = Representations.of(config.dataset, observation, action_dim)
    instructed = build_instructed(config, observation)
    numbers = represented.dim("obs") + sum(encoder.features for encoder in encoders.values())
    steps, drawn = config.policy.obs_horizon, represented.dim("action")
    told = steps * numbers + sum(encoder.features for encoder in instructed.values())
    sizes, found = (drawn, told, config.policy.horizon, steps), config.found.windows
    require(config.policy.features >= 0, f"policy.features={config.policy.features}", "at least 0")
    check_temperature("policy.temperature", config.policy.temperature)
    share = config.policy.history_dropout
    require(0 <= share < 1, f"policy.history_dropout={share}", "a share of the windows in [0, 1)")
    taught = (config.policy.features, share, config.policy.prefix, token_dim(config, instructed))
    spec = ModelSpec(*sizes, config.net, found, *taught)
    model: ChunkModel = build("model", config.method, spec=spec)
    if for_training or config.policy.prefix:
        _check_prefix(model, config)
    if for_training:
        if isinstance(model, AroundModel):
            given = f"method {config.method['name']!r} does not learn from demonstrations"
            require(False, given, cure=f"train its base, and then {model.command}")
        _check_bound(model, config, drawn)
    if not encoders and not instructed:
        return model
    every = ", ".join(map(repr, (*encoders, *instructed)))
    given = f"method {config.method['name']!r} learns nothing, and so no encoder of {every}"
    require(model.learns, given, cure="observe vectors alone, or choose another method")
    given = f"method {config.method['name']!r} with {', '.join(map(repr, instructed))}"
    able = model.takes_instructions or not instructed
    require(able, given, "a method that can be told what to do, such as flow", "observe no texts or goals")
    encoded = EncodedModel(model, encoders, instructed, config.policy.condition_dropout)
    if for_training and weights:
        load_pretrained(encoded.encoders, weights)
    return encoded


def _check_prefix(model: ChunkModel, config: RunConfig) -> None:
    """Refuse to teach what known actions are where that is too many, or where no network tells them apart."""
    longest, policy = config.policy.prefix, config.policy
    free = policy.horizon - policy.obs_horizon
    require(0 <= longest <= free, f"policy.prefix={longest}", f"0 to {free}, which leave an action to be learned")
    if not longest:
        return
    given = f"policy.prefix={longest} of method {config.method['name']!r}"
    require(model.learns_prefix, given, "flow matching or diffusion", "take policy.prefix=0")
    able = all(isinstance(net, Network) and net.per_step for net in model.networks())
    given = f"policy.prefix={longest} of net {config.net['name']!r}, which takes one time for a whole chunk"
    require(able, given, "unet1d or transformer", "take policy.prefix=0")
    dropout = config.method.get("condition_dropout", 0)
    require(not dropout, f"policy.prefix={longest} with method.condition_dropout={dropout}", "one of the two")


def _check_bound(model: ChunkModel, config: RunConfig, action_dim: int) -> None:
    """Refuse a method that cannot draw the demonstrated actions as they are normalized."""
    modes = set(modes_of("action", action_dim, config.dataset.normalize)) - {"limits"}
    needed = 2 if modes else 1  # beyond the first standard deviation, or the quantiles, some actions always lie
    given = f"{config.method} draws actions within ±{model.bound:g}, and "
    given += f"dataset.normalize.action={' and '.join(sorted(modes)) or 'limits'} needs more"
    require(
        model.bound >= needed,
        given,
        cure="take limits, or another method.clip where there is one (5, or null for none)",
    )


def build_policy(
    config: RunConfig,
    observation: ObservationSpec,
    model: ChunkModel,
    normalizer: Normalizer,
    *,
    action_horizon: int | None = None,
    block: int | None = None,
    execution: ExecutionConfig | None = None,
) -> Policy:
    """Return the policy of a run's config around a model.

    Args:
        config: of the run.
        observation: what is observed.
        model: as `build_model` makes it.
        normalizer: fitted on "obs" and "action".
        action_horizon: T_a; None keeps the config's.
        block: samples per network call, see `Policy`.
        execution: how chunks are executed, see `Policy`.
    """
    horizons = config.policy
    if action_horizon is not None:
        horizons = replace(horizons, action_horizon=action_horizon)
    ahead = execution is not None and execution.roll_forward and isinstance(model, Corrects)
    require(not ahead, "execution.roll_forward of a policy that corrects every action", cure="take one of the two")
    held, taught = 0 if execution is None else execution.inpaint or 0, horizons.prefix
    given = f"execution.inpaint={held} of a policy that was taught to go on from at most {taught} (policy.prefix)"
    require(held <= taught or not taught, given, f"at most {taught}")
    represented = Representations.of(config.dataset, observation, _recorded_actions(config, normalizer))
    return Policy(model, normalizer, observation, horizons, represented, block=block, execution=execution)


def load_policy(
    path: str | Path,
    sampler: SamplerConfig | None = None,
    *,
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
    execution: ExecutionConfig | None = None,
) -> Policy:
    """Return the trained policy of a checkpoint, ready to act. Nothing is unpickled.

    Args:
        path: a checkpoint's folder, such as RUN/checkpoints/best.
        sampler: how chunks are sampled; None keeps the training's setting, in whole or field by field.
        solver: short for `sampler.solver`.
        steps: short for `sampler.steps`.
        grid: short for `sampler.grid`.
        solver_options: short for `sampler.options`.
        action_horizon: T_a, actions executed per chunk; None keeps the training's.
        weights: "ema" (the moving average, the better one) or "model" (the last step's).
        device: where the network runs.
        block: samples per network call, see `Policy`.
        freeze: optimize the network for inference where it can be (`nets.base.Freezable`): faster for one robot,
            equal up to rounding.
        compile: freeze, and compile calls of `block` samples (one without a block). Takes a minute or two here, and
            half of it once the compiler has seen the network; a chunk then takes a fourth of the time.
        execution: how chunks are executed, see `Policy`.

    Raises:
        CheckpointError: a missing, half-written or damaged checkpoint, one of something else than a policy, or one
            whose weights do not fit.
        ValueError: settings that the policy cannot use, or a device that this machine does not have.
    """
    short = SamplerConfig(solver, steps, grid, None if solver_options is None else dict(solver_options))
    given = f"sampler={sampler} and {short} beside it"
    require(sampler is None or short == SamplerConfig(), given, "one of the two")
    derived = execution is not None and execution.guide is not None and execution.guide_jacobian
    given = f"execution.guide={execution.guide if execution else None} of a network frozen for inference"
    cure = "take guide_jacobian=False, or neither freeze nor compile"
    require(not (derived and (freeze or compile)), given, "one that can be differentiated", cure)
    with checkpoint.opened(path, "policy") as saved:
        config = load_config(saved.config)
        require(config.found.kind == "policy", f"this is a checkpoint of {config.found.kind}", "one of a policy")
        normalizer = Normalizer.from_tensors(saved.tensors("normalizer"))
        observation = observation_of(config, normalizer)
        model = build_model(config, observation, _recorded_actions(config, normalizer))
    checkpoint.prepare(model, saved, weights, device)
    model.configure(sampler or short)
    policy = build_policy(
        config, observation, model, normalizer, action_horizon=action_horizon, block=block, execution=execution
    )
    if execution is not None and execution.weaker is not None:
        policy.weaker = [_weaker(execution.weaker, policy, config, sampler or short, device)]
    if compile:
        print("compiling the policy, which takes a minute or two", file=sys.stderr)
    each = policy.execution.candidates
    batch = -(-(block or 1) // each) * each
    if (freeze or compile) and not model.freeze(batch if compile else None) and compile:
        print("this network cannot be compiled: it runs as it is", file=sys.stderr)
    return policy


def _weaker(
    path: str, policy: Policy, of: RunConfig, sampler: SamplerConfig, device: str | torch.device
) -> ChunkModel:
    """Return the model of a checkpoint of the same run, to keep away from."""
    with checkpoint.opened(path, "policy") as saved:
        same = Normalizer.from_tensors(saved.tensors("normalizer")).to_tensors()
        tensors, config = policy.normalizer.to_tensors(), load_config(saved.config)
        model = build_model(config, policy.observation, policy.action_dim)
    alike = same.keys() == tensors.keys() and all(torch.equal(same[name], tensors[name]) for name in same)
    fits = alike and config.policy == of.policy and config.observation == of.observation
    require(fits, f"execution.weaker={path}", "an earlier checkpoint of the same run")
    checkpoint.prepare(model, saved, "ema", device)
    model.configure(sampler)
    return model


def observation_of(config: RunConfig, normalizer: Normalizer) -> ObservationSpec:
    """Return what the policy of a checkpoint observes."""
    if config.dataset.representations:  # of which the normalizer knows the numbers that the network sees
        return ObservationSpec.from_plain(config.found.observation)
    return ObservationSpec.of_checkpoint(config.found.observation, config.observation.vectors, normalizer.dim("obs"))


def _recorded_actions(config: RunConfig, normalizer: Normalizer) -> int:
    """A, numbers per action as recorded."""
    return config.found.action_dim or normalizer.dim("action")


def method_class(config: RunConfig) -> type[ChunkModel]:
    """Return the class of a config's method, which declares whether it learns and has a net."""
    return lookup("model", config.method["name"])
