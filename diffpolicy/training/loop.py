"""The one training loop, for any loss over batches that are a function of the step number.

A run is determined by its config, seed and speed: the batch of step k, the noise of step k and the learning rate of
step k depend on k alone, so that what a checkpoint must carry is the weights, their average, the optimiser and
the counter. A run that is killed and resumed ends with the same bytes as one that was not. Several processes share a
run by taking their rows of its batches, see `training.distributed`.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from diffpolicy import checkpoint
from diffpolicy.config import TrainConfig, changes, load_config
from diffpolicy.generative.shapes import Generators
from diffpolicy.training.average import Average
from diffpolicy.training.distributed import BatchShard, Ranks
from diffpolicy.training.logging import MetricsLog
from diffpolicy.training.speed import Speed, choose

Batch = Mapping[str, Tensor]
Loss = Callable[[nn.Module, Batch, Generators], Tensor]

SCHEDULES = ("cosine", "constant")

_NOISE, _VALIDATION = 1, 2  # keys that keep the streams of random numbers apart


class NonFiniteLossError(RuntimeError):
    """The gradient became NaN or infinite; the last good checkpoint is kept."""


def learning_rate_factor(step: int, steps: int, warmup: int, schedule: str = "cosine") -> float:
    """Linear warm-up to 1 over `warmup` steps, then 1 ("constant") or half a cosine down to 0 at `steps`."""
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(steps - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def keyed_generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose numbers are a function of `key` (and of the kind of device) alone."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state))


class _Losses(nn.Module):
    """A model whose forward pass is its loss, as DistributedDataParallel wants it."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, batch: Batch, generator: Generators) -> Tensor:
        losses = self._loss(self.model, batch, generator)
        return (losses * batch["weight"]).mean() if "weight" in batch else losses.mean()


def train(
    model: nn.Module,
    loss: Loss,
    batch_at: Callable[[int], Batch],
    config: TrainConfig,
    run_dir: Path,
    *,
    seed: int,
    record: Mapping[str, Any],
    extras: Mapping[str, Mapping[str, Tensor]] | None = None,
    validation: Callable[[], Batch] | None = None,
    evaluate: Callable[[nn.Module, int], Mapping[str, float]] | None = None,
    device: torch.device | None = None,
    speed: str = "auto",
    ranks: Ranks | None = None,
    resume: bool = False,
    max_minutes: float | None = None,
    progress: bool = True,
) -> Path:
    """Train `model` and return the path of the last checkpoint; see `TrainConfig` for the settings.

    A model without weights to train (its buffers were filled before) is evaluated and written, at step 0.

    Args:
        model: any module; changed in place, but for parameters that require no gradient.
        loss: (model, batch, generator) -> (B,), one value per sample; weighted by the batch's "weight" (B,), if any.
        batch_at: the batch of a step, counted from 0; of several ranks, this one's rows of it.
        run_dir: gets `checkpoints/` and `metrics.jsonl`.
        seed: of the noise; step k draws from a generator keyed by (seed, k), on the device.
        record: the run's whole config, stored with every checkpoint.
        extras: further tensors for every checkpoint, such as the normaliser's.
        validation: a batch whose loss under the average is logged; always with the same noise.
        evaluate: (averaged model, step) -> metrics, the same on all ranks; the best checkpoints are those with the
            highest "score".
        speed: see `training.speed`; "auto" measures, once: a resumed run goes on as it was begun.
        ranks: this process among several; only the first one writes.
        resume: go on from the last checkpoint, or begin where there is none.
        max_minutes: stop after so long, the schedule untouched; a later resume goes on.

    Raises:
        FileExistsError: `run_dir` holds a run already and `resume` is off, or another process trains into it.
        NonFiniteLossError: the gradient turned NaN or infinite.
        CheckpointError: the checkpoint to resume from is damaged or of another model.
    """
    began = time.monotonic()
    device, ranks = device or torch.device("cpu"), ranks or Ranks()
    if speed != "auto":
        Speed.parse(speed)
    if config.steps < 1:
        raise ValueError(f"training.steps is at least 1; given {config.steps}")
    if config.schedule not in SCHEDULES:
        raise ValueError(f"training.schedule must be one of {SCHEDULES}; given {config.schedule!r}")
    share = ranks.rows(config.batch_size)
    folder = run_dir / "checkpoints"
    last = folder / "last"
    log_file = run_dir / "metrics.jsonl"  # empty, where a first step was refused
    if (folder.exists() or (log_file.exists() and log_file.stat().st_size > 0)) and not resume:
        raise FileExistsError(
            f"{run_dir} holds a run already; go on with it by resume=true (anew, if it has no checkpoint yet), or "
            "choose another run_dir"
        )
    ranks.wait()  # before the first one writes there

    def link(step: int) -> None:
        checkpoint.point(folder, "last", checkpoint.step_name(step))
        if state["best"]:
            checkpoint.point(folder, "best", checkpoint.step_name(state["best"][0][1]))
        else:
            (folder / "best").unlink(missing_ok=True)
        checkpoint.prune(folder, _kept(state, step))

    model.to(device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]  # all but what is frozen
    steps = config.steps if trained else 0
    optimizer = torch.optim.AdamW(
        [{"params": trained}],  # a group, which may be empty
        lr=config.lr,
        betas=tuple(config.betas),
        weight_decay=config.weight_decay,
        fused=True,
    )
    average = Average(model, config.ema_power, config.ema_max)
    state: dict[str, Any] = {"best": [], "device": device.type}
    step = 0
    saved = checkpoint.latest(folder) if resume else None
    if saved is not None:
        step, state = _restore(saved, model, average, optimizer, record)
    if ranks.first(step) != step:  # also waits until all have read it: linking removes what a kill left behind
        raise checkpoint.CheckpointError(
            f"rank {ranks.rank} finds step {step} in {run_dir}, and the first rank another: all ranks must see the "
            "same run_dir; put it where all machines reach it"
        )
    log = MetricsLog(run_dir, step) if ranks.writes else None  # before `link`, which removes what others would write
    if saved is not None and ranks.writes:
        link(step)
    quiet = not (progress and ranks.writes)
    bar = tqdm(total=steps, initial=step, desc="train", unit="step", disable=quiet)

    def say(line: str) -> None:
        if not quiet:
            bar.write(line)

    same_device = state["device"] == device.type
    if not same_device:
        say(f"begun on {state['device']}, going on on {device.type}: the numbers will differ in the last bits")

    losses = _Losses(model, loss)

    def noise(step: int) -> Generators:
        generator = keyed_generator(seed, _NOISE, step, device=device)
        # For what draws from torch's own generator: dropout, on every rank another.
        torch.manual_seed((generator.initial_seed() + ranks.rank) % 2**63)
        return generator if ranks.world == 1 else BatchShard(generator, share.start, config.batch_size)

    def forward_backward(autocast: torch.autocast) -> Tensor:
        batch, generator = _to(batch_at(step), device), noise(step)
        with autocast:
            value = losses(batch, generator)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        return value

    if resume:
        say(f"goes on from step {step}" if saved is not None else f"no checkpoint in {run_dir} yet: begins at step 0")
    if speed == "auto" and "speed" in state and same_device:
        chosen = Speed.parse(state["speed"])
        say(f"speed: {chosen}, as before")
    elif speed == "auto" and step < steps:
        chosen, why = ranks.first(choose(model.train(), forward_backward, device, steps - step))
        say(why)
    else:
        chosen = Speed("float32", "") if speed == "auto" else Speed.parse(speed)
    if chosen.compiled:
        say("compiling at the first step, which takes its time: seconds for blocks, a minute or more for a network")
    state |= {"speed": str(chosen), "device": device.type}
    chosen.prepare(model, device)
    losses = ranks.parallel(losses, device) if trained else losses

    def log_row(values: Mapping[str, float]) -> None:
        if log is not None:
            log.write(step, values)

    written = -1 if saved is None else step

    def save() -> None:
        nonlocal written
        written = step
        ranks.wait()
        if ranks.writes:
            groups = {
                "model": model.state_dict(),
                "ema": average.module.state_dict(),
                "training": _training_tensors(optimizer),
                **(extras or {}),
            }
            checkpoint.write(folder, step, groups, record, state)
            link(step)
        ranks.wait()

    def validate() -> None:
        if validation is not None:
            log_row({"validation_loss": _validate(average, loss, validation(), device, seed)})

    def evaluate_and_rank() -> None:
        """Evaluate, and note the score: always before the step's checkpoint, which carries the ranking."""
        if evaluate is None:
            return
        metrics = dict(evaluate(average.module.eval(), step))
        log_row({f"evaluation/{name}": value for name, value in metrics.items()})
        say(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
        ranked = sorted([*state["best"], [metrics["score"], step]], key=lambda row: (-row[0], -row[1]))
        state["best"] = ranked[: config.keep_best]

    def check() -> None:
        if bad := int(first_bad):
            kept = f"the last good checkpoint is {last.resolve()}" if last.exists() else "none was written yet"
            raise NonFiniteLossError(
                f"the gradient of step {bad} is NaN or infinite; {kept}. "
                f"Lower training.lr (now {config.lr:g}) or take speed=float32."
            )

    first_bad = torch.zeros((), dtype=torch.int64, device=device)
    look_every = 1 if device.type == "cpu" else config.log_every or config.steps
    autocast = chosen.autocast(device)
    try:
        while step < steps:
            late = max_minutes is not None and time.monotonic() - began > 60 * max_minutes
            if max_minutes is not None and ranks.first(late):
                say(f"stopped at step {step} after {max_minutes:g} minutes; resume=true goes on")
                break
            factor = learning_rate_factor(step, config.steps, config.warmup_steps, config.schedule)
            for group in optimizer.param_groups:
                group["lr"] = config.lr * factor
            model.train()
            value = forward_backward(autocast)
            norm = nn.utils.clip_grad_norm_(trained, config.grad_clip)
            # Noted on the device and looked at now and then: reading a GPU's numbers in every step would stop it. The
            # gradient is the same on all ranks, so they stop together.
            first_bad = torch.where((first_bad == 0) & ~norm.isfinite(), step + 1, first_bad)
            due = step + 1 >= config.evaluate_from and _due(step + 1, config.evaluate_every, config.steps)
            saving = due or _due(step + 1, config.checkpoint_every, config.steps) or step + 1 == config.steps
            if saving or _due(step + 1, look_every, config.steps):
                check()
            optimizer.step()
            step += 1
            average.update(step)
            bar.update()
            if _due(step, config.log_every, config.steps):
                mean = ranks.mean(value.detach()).item()
                bar.set_postfix(loss=f"{mean:.4f}")
                log_row({"loss": mean, "grad_norm": norm.item(), "lr": config.lr * factor})
            if _due(step, config.validate_every, config.steps):
                validate()
            if due or step == config.steps:
                evaluate_and_rank()
            if saving:
                save()
        if written != step:  # stopped by the clock between two checkpoints, or nothing to train
            check()
            if not trained:
                validate()
            if step > 0 or not trained:
                evaluate_and_rank()
            save()
        return folder / checkpoint.step_name(step)
    finally:
        if log is not None:
            log.close()
        bar.close()


def _due(step: int, every: int, steps: int) -> bool:
    return bool(every) and (step % every == 0 or step == steps)


def _to(batch: Batch, device: torch.device) -> Batch:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


@torch.no_grad()
def _validate(average: Average, loss: Loss, batch: Batch, device: torch.device, seed: int) -> float:
    model = average.module.eval()
    return float(loss(model, _to(batch, device), keyed_generator(seed, _VALIDATION, device=device)).mean())


def _kept(state: Mapping[str, Any], step: int) -> list[str]:
    return [checkpoint.step_name(kept) for kept in {step, *(row[1] for row in state["best"])}]


def _training_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"optimizer.{index}.{name}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
    }


def _restore(
    saved: checkpoint.Checkpoint,
    model: nn.Module,
    average: Average,
    optimizer: torch.optim.Optimizer,
    record: Mapping[str, Any],
) -> tuple[int, dict[str, Any]]:
    """Put `saved` into the three, and return its step and training state."""
    _refuse_other_config(saved, record)
    checkpoint.load_weights(model, saved.tensors("model"), saved.path)
    checkpoint.load_weights(average.module, saved.tensors("ema"), saved.path)
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in saved.tensors("training").items():
        if not name.startswith("optimizer."):
            continue  # the count of averages, which older checkpoints hold: it is the step
        _, index, field = name.split(".")
        entries.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
    return saved.step, copy.deepcopy(saved.state)


def _refuse_other_config(saved: checkpoint.Checkpoint, record: Mapping[str, Any]) -> None:
    if changed := changes(load_config(saved.config), load_config(record)):
        raise ValueError(
            f"{saved.path} was made with another config: {'; '.join(changed)}. "
            "Resume with the same one, or begin a new run_dir."
        )
