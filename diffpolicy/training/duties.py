"""What a run does between steps, and when: log, validate, evaluate, save."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from diffpolicy.config import TrainConfig
from diffpolicy.nets.base import Model
from diffpolicy.training.learner import Batch, Learner
from diffpolicy.training.run import Run
from diffpolicy.training.signals import Stop


def due_at(step: int, steps: int, config: TrainConfig, device: torch.device) -> set[str]:
    """Return what is due after a step, counted from 1, of a run of so many steps.

    "check" is due before the weights change: in every step on a processor, and before anything is written. On a GPU
    reading a number stops it, so that it waits for the log.
    """

    def every(period: int) -> bool:
        return bool(period) and (step % period == 0 or step == steps)

    due = {name for name, period in (("log", config.log_every), ("validate", config.validate_every)) if every(period)}
    evaluates = step >= config.evaluate_from and every(config.evaluate_every)
    if evaluates or step == steps:
        due.add("evaluate")
    if evaluates or step == steps or every(config.checkpoint_every):
        due.add("save")
    if "save" in due or every(1 if device.type == "cpu" else config.log_every or steps):
        due.add("check")
    return due


class Duties:
    """Validates and evaluates. A signal leaves them at once; the run that is resumed finishes them first.

    Args:
        learner: whose averaged model is looked at.
        run: logs what is found, and notes what is unfinished.
        stop: tells of signals.
        validation: returns the batch to validate on; None for none.
        evaluate: (averaged model, step) -> metrics, see `TrainConfig.choose`; None for none.
    """

    def __init__(
        self,
        learner: Learner,
        run: Run,
        stop: Stop,
        validation: Callable[[], Batch] | None,
        evaluate: Callable[[Model, int], Mapping[str, float]] | None,
    ) -> None:
        self._learner, self._run, self._stop = learner, run, stop
        self._validation, self._evaluation = validation, evaluate
        self._actions = {"validate": self._validate, "evaluate": self._evaluate}

    def perform(self, names: list[str]) -> None:
        """Do what is due, some of "validate" and "evaluate" in this order.

        Raises:
            Leave: a signal arrived; what was not finished is noted in the run's state.
        """
        while names:
            self._run.unfinished = names
            self._actions[names[0]]()
            names = names[1:]
        self._run.unfinished = []

    def finish(self) -> None:
        """Do what a run that was left had still to do at the step of its checkpoint."""
        if names := self._run.unfinished:
            self.perform(names)
            self._run.restate(self._learner.step)

    def _validate(self) -> None:
        if self._validation is not None:
            with self._stop.leaving():
                loss = self._learner.validation_loss(self._validation())
            self._run.log(self._learner.step, {"validation_loss": loss})

    def _evaluate(self) -> None:
        if self._evaluation is not None:
            try:
                with self._stop.leaving():
                    metrics = dict(self._evaluation(self._learner.averaged(), self._learner.step))
                self._run.rank(self._learner.step, metrics)
            except Exception:  # such as a broken environment, which must not cost the steps since the last checkpoint
                self._run.save(self._learner, together=False)
                raise
