"""What is refused before any training, and what a stored result was made with."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

from comparison.plan import Measurement, Run
from diffpolicy.config import ExecutionConfig, FoundInData, RunConfig, SamplerConfig, changes, load_config, typed
from diffpolicy.config.commands import EvaluateConfig
from diffpolicy.datasets.spec import Field, ObservationSpec
from diffpolicy.evaluation import TaskSpec, episode_resets, is_same_task, policy_env
from diffpolicy.policies import ChunkModel, build_model
from diffpolicy.policies.chunking import Chunker
from diffpolicy.util.errors import located, require

WINDOWS = 1000  # any number, for methods that remember their training data


def check(chosen: Iterable[Measurement], every: Mapping[str, Measurement]) -> None:
    """Refuse what training or evaluation would refuse, as far as can be told before training.

    Args:
        chosen: what is to be measured.
        every: all measurements of the plan, with some of which these are compared.

    Raises:
        ValueError: settings that the commands, the environment or the policy refuse; names the measurement.
    """
    models: dict[str, Any] = {}
    for one in chosen:
        with located(one.name):
            trained = one.run.config
            _check_environment(trained, one.config)
            seeds = _seeds(one)
            for other in (every[name] for name in one.against if name in every):
                same = is_same_task(vars(trained.env), vars(other.run.config.env)) and seeds & _seeds(other)
                require(same, f"{other.name}, which it is compared with, has other initial states")
            if one.run.name not in models:
                models[one.run.name] = _untrained(trained)
            _check_policy(copy.deepcopy(models[one.run.name]), trained, one.config)


def _untrained(config: RunConfig) -> ChunkModel:
    config = dataclasses.replace(config, encoder={}, found=FoundInData(windows=WINDOWS))
    return build_model(config, ObservationSpec({"obs": Field("vector", (2,))}), 2, for_training=True)


def _check_policy(model: ChunkModel, trained: RunConfig, settings: EvaluateConfig) -> None:
    options = settings.solver_options or None
    model.configure(SamplerConfig(settings.solver, settings.steps, settings.grid, options))
    t_a = settings.action_horizon or trained.policy.action_horizon
    horizons = dataclasses.replace(trained.policy, action_horizon=t_a)
    Chunker(ExecutionConfig(**settings.execution), model.supported_execution, horizons)


def _seeds(one: Measurement) -> set[tuple[bool, int]]:
    """The initial states: whether they are a named set's, and the seeds."""
    with closing(policy_env(one.run.config)()) as env:
        resets = episode_resets(one.config.seeds, one.config.episodes, TaskSpec.of(env))
    return {(isinstance(one.config.seeds, str), how.seed) for how in resets}


def _check_environment(trained: RunConfig, settings: EvaluateConfig) -> None:
    with closing(policy_env(trained)()) as env:
        modes = TaskSpec.of(env).modes
    require(modes or not settings.modes, f"{trained.env.id} has no known modes", cure="modes=false")


def training_changes(recorded: Mapping[str, Any], run: Run) -> list[str]:
    """Return a line for each setting that affects results and differs between a recorded config and the plan's.

    Args:
        recorded: the config of a checkpoint, of any version.
        run: the plan's.
    """
    before, now = load_config(recorded), run.config
    stream = dataclasses.replace(
        now.dataset.stream,
        pool=now.dataset.stream.pool or before.dataset.stream.pool,  # None is chosen by the data and stored
        run=now.dataset.stream.run or before.dataset.stream.run,
    )
    now = dataclasses.replace(now, dataset=dataclasses.replace(now.dataset, stream=stream))
    unused = {"images": now.images}
    if not before.observation.images:
        unused["encoder"] = now.encoder
    if not before.net:  # of methods without a network, earlier checkpoints record none
        unused["net"] = now.net
    return changes(dataclasses.replace(before, **unused), now)


def evaluation_changes(recorded: Mapping[str, Any], one: Measurement) -> list[str]:
    """Return a line for each setting that affects results and differs from the plan's.

    Args:
        recorded: the settings of an evaluation, of any version.
        one: the plan's.
    """
    known = {field.name for field in dataclasses.fields(EvaluateConfig)}
    settings = {key: value for key, value in recorded.items() if key in known}
    now = one.config
    before = dataclasses.replace(typed(EvaluateConfig, settings), checkpoint=now.checkpoint, out=now.out)
    if now.modes and "modes" not in recorded:  # earlier releases recorded the horizon in use
        before.modes = now.modes
        before.action_horizon = now.action_horizon
    return changes(before, now)
