"""The training loop, for any model over batches that are a function of the step number.

A run is a function of its config, seed and speed: the batch, the noise and the learning rate of step k depend on k
alone, so that a checkpoint carries the weights, their average, the optimizer and the counter. A run that is killed
and resumed ends with the same bytes as one that was not. Several processes share a run, see `training.distributed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffpolicy.config import LAST, TrainConfig
from diffpolicy.nets.base import Model
from diffpolicy.training.distributed import Ranks
from diffpolicy.training.duties import Duties, due_at
from diffpolicy.training.learner import Batch, Learner
from diffpolicy.training.optim import check_settings
from diffpolicy.training.precision import Speed
from diffpolicy.training.run import Run
from diffpolicy.training.signals import Leave, Stop
from diffpolicy.util.errors import require


def train(
    model: Model,
    batch_at: Callable[[int], Batch],
    config: TrainConfig,
    run_dir: str | Path,
    *,
    seed: int,
    record: Any,
    extras: Mapping[str, Mapping[str, Tensor]] | None = None,
    validation: Callable[[], Batch] | None = None,
    evaluate: Callable[[Model, int], Mapping[str, float]] | None = None,
    device: torch.device | None = None,
    speed: str = "auto",
    ranks: Ranks | None = None,
    resume: bool = False,
    start_from: str | Path | None = None,
    max_minutes: float | None = None,
    progress: bool = True,
) -> Path:
    """Train a model and return the path of the last checkpoint.

    A model without weights to train (its buffers were filled before) is evaluated and written, at step 0.

    Args:
        model: changed in place, but for parameters that require no gradient.
        batch_at: the batch of a step, counted from 0; of several ranks, this one's shard of it. Its "weight" (B,), if
            it has any, weights the losses.
        config: settings of the loop.
        run_dir: gets `checkpoints/` and `metrics.jsonl`.
        seed: of the noise; step k draws from a generator keyed by (seed, k), on the device.
        record: the run's config, a `RunConfig` or another dataclass with a field `training`; stored with every
            checkpoint, and compared with it when resuming.
        extras: further tensors for every checkpoint by group, such as the normalizer's.
        validation: a batch whose loss under the average is logged; always with the same noise.
        evaluate: (averaged model, step) -> metrics, the same on all ranks; see `TrainConfig.choose` on the
            best checkpoints.
        device: where to train; None is the CPU.
        speed: see `training.precision`; "auto" measures once, and a resumed run keeps its speed.
        ranks: this process among several; None is one alone.
        resume: continue from the last checkpoint, or start if there is none.
        start_from: a checkpoint whose averaged weights a new run begins with.
        max_minutes: stop after so long, the schedule untouched; resuming continues.
        progress: show progress on the terminal.

    Raises:
        FileExistsError: `run_dir` holds a run already and `resume` is off, or another process trains into it.
        NonFiniteLossError: the gradient became NaN or infinite.
        CheckpointError: the checkpoint to resume from is damaged or of another model.
        ValueError: settings that affect results, or the data, differ from those of the checkpoint; or
            `config.choose` is nothing that `evaluate` returns.
        DiskFullError: there is no room for a checkpoint.
        Interrupted: SIGINT or SIGTERM arrived; the present state was saved.
    """
    device, ranks = device or torch.device("cpu"), ranks or Ranks()
    check_settings(config)
    rolled_out = config.choose == LAST or evaluate is not None
    given = f"training.choose={config.choose}, and nothing is rolled out"
    require(rolled_out, given, LAST, "name an environment to roll out in, or take training.choose=last")
    if speed != "auto":
        Speed.parse(speed)
    ranks.shard(config.batch_size)
    run = Run(Path(run_dir), record, extras or {}, config, ranks, progress)
    with Stop(ranks, max_minutes) as stop, run.claimed(resume):
        learner = Learner(model, batch_at, config, seed, device, ranks)
        run.begin(learner, resume, start_from)
        duties = Duties(learner, run, stop, validation, evaluate)
        try:
            duties.finish()
            with stop.leaving():
                run.state |= learner.settle(speed, run.state, run.schedule.steps, run.console.say)
            _loop(learner, run, stop, duties, config)
            saved = run.save(learner)
        except Leave:  # outside of steps only: the state is that after the last one
            saved = run.save(learner, together=False)
        if stop.signal:
            raise run.interrupted(stop.signal, saved)
        return saved


def _loop(learner: Learner, run: Run, stop: Stop, duties: Duties, config: TrainConfig) -> None:
    steps = run.schedule.steps
    while learner.step < steps and not stop.asked():
        due = due_at(learner.step + 1, steps, config, learner.device)
        loss, norm = learner.gradients()
        if "check" in due:
            run.check_finite(learner)
        rate = run.schedule.rate(learner.step)
        learner.apply(rate)
        run.console.advance()
        if "log" in due:
            mean = learner.ranks.mean(loss.detach()).item()
            run.log(learner.step, {"loss": mean, "grad_norm": norm.item(), "lr": rate})
        duties.perform([name for name in ("validate", "evaluate") if name in due])
        if "save" in due:
            run.save(learner)
    if not stop.signal and not run.saved(learner.step):  # out of time between two checkpoints, or nothing to train
        duties.perform((["evaluate"] if learner.step else []) if learner.trained else ["validate", "evaluate"])
