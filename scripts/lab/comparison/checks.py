"""What is refused before any training, and what a stored result was made with."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

from comparison.plan import Measurement, Run
from diffpolicy.config import (
    DatasetConfig,
    ExecutionConfig,
    FoundInData,
    RunConfig,
    SamplerConfig,
    changes,
    effective,
    load_config,
    typed,
)
from diffpolicy.config.commands import EvaluateConfig
from diffpolicy.datasets.spec import Field, ObservationSpec
from diffpolicy.evaluation import TaskSpec, episode_resets, is_same_task, policy_env
from diffpolicy.policies import ChunkModel, build_model
from diffpolicy.policies.chunking import Chunker
from diffpolicy.training.resume import as_known
from diffpolicy.util.errors import located, require

WINDOWS = 1000  # any number, for methods that remember their training data


def check(chosen: Iterable[Measurement], every: Mapping[str, Measurement]) -> None:
    """Refuse what training or evaluation would refuse, as far as can be told before training.

    Args:
        chosen: what is to be measured.
        every: all measurements of the plan, with some of which these are compared.

    Raises:
        ValueError: settings that the commands, the environment or the policy refuse; names the measurement.
        ImportError: an environment that is not installed.
    """
    known = _Known()
    for one in chosen:
        with located(one.name):
            trained, settings = one.run.config, one.config
            if one.run.recording is not None:
                vars(one.run.recording.config)  # composed here, so that unknown settings are refused; so below
            if one.estimator is not None:
                vars(one.estimator.config)
            task = known.task(trained)
            require(task.modes or not settings.modes, f"{trained.env.id} has no known modes", cure="modes=false")
            seeds = _seeds(settings, task)
            for other in (every[name] for name in one.against if name in every):
                their = other.run.config
                same = is_same_task(vars(trained.env), vars(their.env))
                same = same and seeds & _seeds(other.config, known.task(their))
                require(same, f"{other.name}, which it is compared with, has other initial states")
            known.check_policy(trained, settings)


class _Known:
    """Tasks and untrained models by their configs, so that each is made once: an environment may take seconds."""

    def __init__(self) -> None:
        self._tasks: dict[str, TaskSpec] = {}
        self._models: dict[str, ChunkModel] = {}
        self._checked: set[str] = set()

    def task(self, trained: RunConfig) -> TaskSpec:
        key = _key(trained.env, trained.observation.mode)
        if key not in self._tasks:
            with closing(policy_env(trained)()) as env:
                self._tasks[key] = TaskSpec.of(env)
        return self._tasks[key]

    def check_policy(self, trained: RunConfig, settings: EvaluateConfig) -> None:
        """Raise ValueError unless a policy can be trained so, and evaluated so."""
        built = _what_a_model_is_built_of(trained)
        key = _key(built)
        if key not in self._models:
            spec = ObservationSpec({"obs": Field("vector", (2,))})
            self._models[key] = build_model(built, spec, 2, for_training=True)
        both = _key(built, effective(settings))
        if both not in self._checked:
            _check_policy(copy.deepcopy(self._models[key]), trained, settings)
            self._checked.add(both)


def _key(*parts: Any) -> str:
    return json.dumps([dataclasses.asdict(one) if dataclasses.is_dataclass(one) else one for one in parts])


def _what_a_model_is_built_of(config: RunConfig) -> RunConfig:
    """The config without what no model depends on, so that trainings on other data and seeds share one."""
    data = DatasetConfig(representations=config.dataset.representations, normalize=config.dataset.normalize)
    parts = {"method": config.method, "net": config.net, "policy": config.policy, "dataset": data}
    return RunConfig(**parts, found=FoundInData(windows=WINDOWS))


def _check_policy(model: ChunkModel, trained: RunConfig, settings: EvaluateConfig) -> None:
    options = settings.solver_options or None
    model.configure(SamplerConfig(settings.solver, settings.steps, settings.grid, options))
    t_a = settings.action_horizon or trained.policy.action_horizon
    horizons = dataclasses.replace(trained.policy, action_horizon=t_a)
    Chunker(ExecutionConfig(**settings.execution), model.supported_execution, horizons)


def _seeds(settings: EvaluateConfig, task: TaskSpec) -> set[tuple[bool, int]]:
    """The initial states: whether they are a named set's, and the seeds."""
    resets = episode_resets(settings.seeds, settings.episodes, task)
    return {(isinstance(settings.seeds, str), how.seed) for how in resets}


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
    return changes(dataclasses.replace(before, images=now.images), as_known(before, now))


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
    before.env.estimator = now.env.estimator  # told by its digest
    before.execution = {**EvaluateConfig().execution, **before.execution}  # what earlier releases did not have
    if now.modes and "modes" not in recorded:  # earlier releases recorded the horizon in use
        before.modes = now.modes
        before.action_horizon = now.action_horizon
    return changes(before, now)
