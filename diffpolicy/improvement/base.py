"""What every way of improving a policy has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffpolicy import checkpoint as checkpoints
from diffpolicy.checkpoint import Checkpoint
from diffpolicy.config import ExecutionConfig, RunConfig, load_config
from diffpolicy.config.commands import ImproveConfig
from diffpolicy.datasets import BatchSampler
from diffpolicy.evaluation import INFERENCE_BLOCK
from diffpolicy.evaluation.adapters import EnvFactory
from diffpolicy.evaluation.episode import Reset
from diffpolicy.evaluation.task import NO_SUCCESS, TaskSpec
from diffpolicy.nets.base import Model
from diffpolicy.policies import Agent, Policy, load_policy
from diffpolicy.training import train
from diffpolicy.training.log import METRICS, read_metrics
from diffpolicy.util import files
from diffpolicy.util.errors import require

Train = Callable[[RunConfig], Path | None]


@dataclass(frozen=True)
class Work:
    """What a round has to do.

    Args:
        settings: of the command.
        number: of the round, from 1 on.
        start: checkpoint of the policy of the round before.
        folder: gets what the round leaves.
        make_env: makes the environment; None where `rolls_out` is off.
        task: what results there mean; None likewise.
        first_seed: of the round's episodes.
        train: trains what a run's config describes, as `api.train_policy` does.
    """

    settings: ImproveConfig
    number: int
    start: Checkpoint
    folder: Path
    make_env: EnvFactory | None
    task: TaskSpec | None
    first_seed: int
    train: Train

    @property
    def config(self) -> RunConfig:
        """The run's config of the policy of the round before."""
        return load_config(self.start.config)

    @property
    def resets(self) -> Sequence[Reset]:
        """How the round's episodes start."""
        return [Reset(self.first_seed + number) for number in range(self.settings.episodes)]

    def policy(self, temperature: float | None = None) -> Policy:
        """Return the policy of the round before, with its own temperature or another one."""
        execution = ExecutionConfig(temperature=temperature)
        return load_policy(self.start.path, device=self.settings.device, block=INFERENCE_BLOCK, execution=execution)

    def agent(self, temperature: float | None = None) -> Agent:
        """Return who rolls out."""
        return Agent(self.policy(temperature))


@dataclass
class Round:
    """What a round came to.

    Args:
        checkpoint: of the improved policy.
        costs: "episodes", "environment_steps", "network_calls", "rollout_seconds", "training_seconds" and whatever a
            method counts beside them, such as "expert_steps".
        found: what the rollouts showed, such as how many succeeded.
    """

    checkpoint: Path
    costs: dict[str, float] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)


class Improvement(ABC):
    """One way of improving a policy, constructed from its options."""

    rolls_out: ClassVar[bool] = True
    """Whether it needs an environment."""

    @abstractmethod
    def improve(self, work: Work) -> Round:
        """Roll out and train for one round, or go on with a round that was cut off."""

    def check(self, policy: Policy, make_env: EnvFactory, task: TaskSpec) -> None:
        """Refuse, before any work, a policy or an environment that this method cannot work with.

        Raises:
            ValueError: says why.
        """
        check_numbers(policy)
        silent = task.success_key == NO_SUCCESS
        require(not silent, f"{make_env.id} has no success", cure="name what says so by env.success=KEY")


def check_numbers(policy: Policy) -> None:
    """Raise ValueError for a policy of pictures, or one that is told what to do."""
    images = policy.observation.images
    given = f"a policy that observes images, {', '.join(images)}"
    require(not images, given, "one of numbers", "let an estimator tell the numbers (env.estimator)")
    given = f"a policy that is told what to do, {', '.join(policy.observation.told)}"
    require(not policy.observation.told, given, "one that does one thing", "train on demonstrations of that alone")


class Batches(Protocol):
    """What is learned from, by number."""

    def __len__(self) -> int: ...

    def batch(self, numbers: Tensor) -> Mapping[str, Any]:
        """Return a batch for the model's loss."""


def learn(work: Work, run: RunConfig, model: Model, source: Batches, device: torch.device, speed: str) -> Path:
    """Train a model on what rollouts showed, and return the path of its last checkpoint.

    Args:
        work: the round.
        run: config of the checkpoint.
        model: what learns.
        source: what it learns from.
        device: where.
        speed: see `diffpolicy train`.
    """
    batches = BatchSampler(len(source), run.training.batch_size, run.seed, device)
    return train(
        model.train(),
        lambda step: source.batch(batches[step]),
        run.training,
        work.folder,
        seed=run.seed,
        record=run,
        extras={"normalizer": checkpoints.read(work.start.path).tensors("normalizer")},
        device=device,
        speed=speed,
        resume=True,
    )


def kept(path: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of a file, so that a run that was killed need not make them again.

    Args:
        path: of the file.
        make: makes them where it does not exist yet.
    """
    if not path.exists():
        with files.replacing(path) as partial:
            save_file(make(), partial)
    return load_file(path)


def trained(folder: Path, steps: int, train: Callable[[], object]) -> tuple[Path, float]:
    """Return the last checkpoint of the training in `folder`, which `train` makes or goes on with, and its seconds.

    Args:
        folder: of the run.
        steps: of the training.
        train: called unless the training is over.
    """
    last = checkpoints.latest(folder / "checkpoints")
    if last is None or last.step < steps:
        train()
        last = checkpoints.latest(folder / "checkpoints")
    whole = last is not None and last.step >= steps
    require(whole, f"the training in {folder} stopped before its last step", cure="give the same command again")
    seconds = max((entry.get("seconds", 0.0) for entry in read_metrics(folder / METRICS)), default=0.0)
    return last.path, float(seconds)
