"""One optimisation step: the temporal U-Net as trained here, beside the published structure in plain Conv1d, eager,
float32. Both draw time and noise, and clip, optimise (fused AdamW) and average (EMA) alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from diffpolicy.generative.objectives import DenoisingObjective
from diffpolicy.generative.paths import LinearPath
from diffpolicy.nets import ConditionalUnet1D
from diffpolicy.scripts.benchmarks.conv1d_unet import Conv1dUnet
from diffpolicy.scripts.benchmarks.paired import paired
from diffpolicy.training.loop import Batch, Loss, ema_update, resolve_precision

DIM, COND, HORIZON, BATCH = 2, 40, 16, 256
CASES = {"64/128/256": (64, 128, 256), "256/512/1024": (256, 512, 1024)}


def _step(net: nn.Module, precision: str) -> Callable[[], None]:
    torch.manual_seed(0)
    batch = {"data": torch.randn(BATCH, HORIZON, DIM), "cond": torch.randn(BATCH, COND)}
    return optimisation(net, DenoisingObjective(LinearPath(), "velocity"), batch, precision)


def optimisation(net: nn.Module, loss: Loss, batch: Batch, precision: str) -> Callable[[], None]:
    """One step of the training loop as a call, always on the same batch."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
    average = AveragedModel(net, multi_avg_fn=ema_update(0.75, 0.9999))
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")

    def step() -> None:
        with autocast:
            value = loss(net, batch, generator).mean()
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(net)

    return step


def measure(rounds: int, seed: int) -> Mapping[str, Any]:
    """One row per case; compiled, the seconds of compilation and first step are given apart."""
    torch.manual_seed(seed)
    precision = resolve_precision("auto", torch.device("cpu"))
    found: dict[str, Any] = {}
    for name, widths in CASES.items():
        features = 128 if widths[0] == 64 else 256  # as published at the large size
        peer = Conv1dUnet(DIM, COND, widths, time_features=features)
        for compiled in (False, True):
            net = ConditionalUnet1D(DIM, COND, widths, time_features=features)
            peer.copy_from(net)
            if compiled:
                net.compile()
            ours, began = _step(net, precision), time.perf_counter()
            ours()
            row: dict[str, Any] = {"precision": precision, "first_step_seconds": time.perf_counter() - began}
            found[name + (", compiled" if compiled else "")] = row | paired(ours, _step(peer, "float32"), rounds)
    return found
