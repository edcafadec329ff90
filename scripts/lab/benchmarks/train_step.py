"""One optimization step: the temporal U-Net as trained here at each speed, beside the published one in plain Conv1d.

The peer runs eagerly in float32. Both draw time and noise, clip, optimize (fused AdamW) and average (EMA) alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from benchmarks.paired import paired
from diffpolicy.generative.objectives import DenoisingObjective
from diffpolicy.generative.paths import LinearPath
from diffpolicy.nets import ConditionalUnet1D, FastUnet1D
from diffpolicy.nets.base import Model
from diffpolicy.nets.unet1d_fast import copy_weights
from diffpolicy.training import TrainConfig
from diffpolicy.training.average import Average
from diffpolicy.training.learner import Batch
from diffpolicy.training.precision import Speed, choose
from diffpolicy.util.condition import Condition

DIM, COND, HORIZON, BATCH = 2, 40, 16, 256
CASES = {"64/128/256": (64, 128, 256), "256/512/1024": (256, 512, 1024)}
SPEEDS = ("float32", "bfloat16", "bfloat16+blocks")
STEPS = 10_000  # of the run that a speed is chosen for
CPU = torch.device("cpu")


class Denoiser(Model):
    """A network with its loss on one batch of noise, on a device."""

    def __init__(self, net: nn.Module, device: torch.device = CPU) -> None:
        super().__init__()
        self.net, self._objective = net.to(device), DenoisingObjective(LinearPath(), "velocity")
        torch.manual_seed(0)
        batch = {"data": torch.randn(BATCH, HORIZON, DIM), "cond": torch.randn(BATCH, COND)}
        self.batch = {name: value.to(device) for name, value in batch.items()}

    def loss(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        return self._objective(self.net, {**batch, "cond": Condition(batch["cond"])}, generator)

    def networks(self) -> list[nn.Module]:
        return [self.net]


def optimization(model: Model, batch: Batch, speed: Speed, device: torch.device = CPU) -> Callable[[], None]:
    """Return one step of the training loop as a function, always on the same batch."""
    generator, settings = torch.Generator(device).manual_seed(0), TrainConfig()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    average = Average(model, settings.ema_power, settings.ema_max)
    speed.prepare(model, device)
    autocast, count = speed.autocast(device), 0

    def step() -> None:
        nonlocal count
        with autocast:
            value = model.loss(batch, generator).mean()
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
        optimizer.step()
        count += 1
        average.update(count)

    return step


def chosen_speed(model: Model, batch: Batch) -> Speed:
    """Return what `speed=auto` chooses here for a run of `STEPS`."""
    generator = torch.Generator().manual_seed(0)

    def run(autocast: torch.autocast) -> None:
        with autocast:
            value = model.loss(batch, generator).mean()
        value.backward()

    return choose(model, run, CPU, STEPS)[0]


def measure(rounds: int, seed: int) -> Mapping[str, Any]:
    """Return the cases by widths and speed, with the seconds of the first step, compilation included."""
    torch.manual_seed(seed)
    found: dict[str, Any] = {}
    for name, widths in CASES.items():
        features = 128 if widths[0] == 64 else 256  # as published at the large size
        sizes = {"dim": DIM, "cond_dim": COND, "widths": widths, "time_features": features}
        auto = Denoiser(FastUnet1D(**sizes))
        automatic = str(chosen_speed(auto, auto.batch))
        for speed in SPEEDS:
            model, peer = Denoiser(FastUnet1D(**sizes)), Denoiser(ConditionalUnet1D(**sizes))
            copy_weights(model.net, peer.net)
            ours = optimization(model, model.batch, Speed.parse(speed))
            theirs = optimization(peer, peer.batch, Speed.parse("float32"))
            began = time.perf_counter()
            ours()
            first: dict[str, Any] = {"auto": speed == automatic, "first_step_seconds": time.perf_counter() - began}
            found[f"{name}, {speed}{' (auto)' if speed == automatic else ''}"] = first | paired(ours, theirs, rounds)
    return found
