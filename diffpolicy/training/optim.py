"""The optimizer of a run, its learning-rate schedule, and how both are stored in a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from diffpolicy.config import TrainConfig
from diffpolicy.util import names
from diffpolicy.util.errors import require

SCHEDULES = ("cosine", "constant")


def check_settings(config: TrainConfig) -> None:
    """Raise ValueError for settings that no training can have."""
    names.check("training.schedule", config.schedule, SCHEDULES)
    for name, value, least in (
        ("steps", config.steps, 1),
        ("batch_size", config.batch_size, 1),
        ("warmup_steps", config.warmup_steps, 0),
        ("evaluate_every", config.evaluate_every, 0),
        ("checkpoint_every", config.checkpoint_every, 0),
        ("validate_every", config.validate_every, 0),
        ("log_every", config.log_every, 0),
        ("keep_best", config.keep_best, 0),
    ):
        require(value >= least, f"training.{name}={value}", f"at least {least}")


def learning_rate_factor(step: int, steps: int, warmup: int, schedule: str = "cosine") -> float:
    """Return the factor of the peak learning rate at a step, counted from 0.

    Linear warm-up to 1 over `warmup` steps, then 1 ("constant") or half a cosine down to 0 at `steps` ("cosine").
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(steps - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


@final
@dataclass(frozen=True)
class Schedule:
    """The learning rate over a run, which may have been extended.

    A cosine is over when the run is. A run extended from `ends[0]` to `ends[1]` steps has a second warm-up and decay
    over the added steps; weights, average and optimizer continue. A constant rate just continues.

    Args:
        config: the peak rate, the warm-up and the kind of schedule.
        ends: steps at which the run ended before each extension, and at which it ends now.
    """

    config: TrainConfig
    ends: tuple[int, ...]

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.ends[-1]

    def rate(self, step: int) -> float:
        """Return the learning rate at a step, counted from 0."""
        end = next((end for end in self.ends if step < end), self.steps)
        begin = max((before for before in self.ends if before < end), default=0)
        config = self.config
        return config.lr * learning_rate_factor(step - begin, end - begin, config.warmup_steps, config.schedule)

    def extended(self, ends: Sequence[int], at: int) -> Schedule | None:
        """Return this schedule for a run that was to end at `ends[-1]` and is at step `at`; None if there is none."""
        before, now = tuple(ends), self.steps
        if now == before[-1]:
            return Schedule(self.config, before)
        if self.config.schedule == "constant":
            return self if now >= at else None
        return Schedule(self.config, (*before, now)) if at == before[-1] < now else None


def make_optimizer(trained: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW over one group of parameters, which may be empty."""
    return torch.optim.AdamW(
        [{"params": list(trained)}],
        lr=config.lr,
        betas=tuple(config.betas),
        weight_decay=config.weight_decay,
        fused=True,
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors by flat names."""
    return {
        f"optimizer.{index}.{name}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load what `optimizer_tensors` returned; other names, which older checkpoints hold, are passed over."""
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, *place = name.split(".")
        if kind == "optimizer":
            index, field = place
            entries.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
