"""On a GPU: a step of training and one chunk, beside the published network in plain Conv1d, run eagerly.

A step is one of `train_step`, a chunk one of `latency`, until the processor has it. A policy of pictures has no peer:
its step encodes two pictures of 96 × 96 a sample with ResNet-18.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import latency, train_step
from benchmarks.latency import CHUNKS, COND, DIM, HORIZON, WIDTHS
from benchmarks.paired import paired, ratio, seconds
from diffpolicy.config import PolicyConfig, RunConfig, SamplerConfig
from diffpolicy.datasets.spec import Field, ObservationSpec
from diffpolicy.nets import ConditionalUnet1D, FastUnet1D
from diffpolicy.nets.base import Model
from diffpolicy.nets.unet1d_fast import copy_weights
from diffpolicy.policies import build_model
from diffpolicy.training.learner import Batch
from diffpolicy.training.precision import Speed

STEPS = 50  # of training in a turn
CALLS = (1, 4, 10)
PICTURES = 64
SPEEDS = ("float32", "bfloat16", "bfloat16+network")
GPU = torch.device("cuda")


def waited(call: Callable[[], Any]) -> Callable[[], None]:
    """Return the call, with the GPU done when it returns."""

    def run() -> None:
        call()
        torch.cuda.synchronize()

    return run


def several(step: Callable[[], None]) -> Callable[[], None]:
    """Return `STEPS` steps, as a training takes them: without waiting for each."""

    def run() -> None:
        for _ in range(STEPS):
            step()
        torch.cuda.synchronize()

    return run


def first(step: Callable[[], None]) -> float:
    """Return the seconds of the first step, compilation included."""
    return seconds(waited(step), 1)


class Seen(Model):
    """A policy of pictures with its loss."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model.to(GPU)

    def loss(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        return self.model.loss(batch, generator)

    def networks(self) -> list[nn.Module]:
        return self.model.networks()


def seeing(batch: int) -> tuple[Model, Batch]:
    """Return a policy of pictures of Push-T with ResNet-18, and a batch for it."""
    fields = {"agent": Field("vector", (2,)), "image": Field("image", (96, 96, 3))}
    config = RunConfig(run_dir="seeing", policy=PolicyConfig(2, HORIZON, 8))
    config.net = {"name": "unet1d", "widths": [64, 128, 256], "time_features": 128}
    config.method = {"name": "generative", "path": {"name": "linear"}, "prediction": "velocity"}
    config.encoder = {"name": "resnet18", "scale": None, "crop": 84}
    config.observation.vectors, config.observation.images = ["agent"], ["image"]
    model = build_model(config, ObservationSpec(fields), DIM)
    shapes = {"obs": (2, 2), "action": (HORIZON, DIM)}
    vectors = {name: torch.randn(batch, *shape, device=GPU) for name, shape in shapes.items()}
    return Seen(model), vectors | {"image": torch.randint(256, (batch, 2, 96, 96, 3), dtype=torch.uint8, device=GPU)}


def training(rounds: int) -> dict[str, Any]:
    """Return the cases of a step by widths and speed."""
    found: dict[str, Any] = {}
    for name, widths in train_step.CASES.items():
        features = 128 if widths[0] == 64 else 256
        sizes = {"dim": DIM, "cond_dim": COND, "widths": widths, "time_features": features}
        for speed in SPEEDS:
            own, peer = (train_step.Denoiser(kind(**sizes), GPU) for kind in (FastUnet1D, ConditionalUnet1D))
            copy_weights(own.net, peer.net)
            ours = train_step.optimization(own, own.batch, Speed.parse(speed), GPU)
            theirs = train_step.optimization(peer, peer.batch, Speed.parse("float32"), GPU)
            torch.set_float32_matmul_precision("highest" if speed == "float32" else "high")
            one = {"first_step_seconds": first(ours)} | paired(several(ours), several(theirs), rounds)
            rates = {who: STEPS / value for who, value in one["seconds"].items()}
            found[f"{name}, {speed}"] = one | {"steps_per_second": rates}
            torch._dynamo.reset()
    return found


def pictures(rounds: int) -> dict[str, Any]:
    """Return the cases of a step with pictures by speed; the ratio is to float32."""
    found: dict[str, Any] = {}
    plain: list[float] = []
    for speed in SPEEDS:
        model, given = seeing(PICTURES)
        step = train_step.optimization(model, given, Speed.parse(speed), GPU)
        began = first(step)
        turns = [seconds(several(step), 1) for _ in range(rounds + 1)][1:]
        plain = plain or turns
        rate = STEPS / float(np.median(turns))
        one = {"first_step_seconds": began, "ratio": ratio(plain, turns), "steps_per_second": {"ours": rate}}
        found[f"ResNet-18 at batch {PICTURES}, {speed}"] = one
        torch._dynamo.reset()
    return found


def chunks(rounds: int) -> dict[str, Any]:
    """Return the cases of a chunk by widths, calls and what is compiled."""
    found: dict[str, Any] = {}
    for name, widths in WIDTHS.items():
        for compiled in (False, True):
            model, peer = (net.to(GPU) for net in latency.networks(widths))
            cond = torch.randn(1, COND).to(GPU)
            began = time.perf_counter()
            model.freeze(1 if compiled else None)
            for calls in CALLS:
                model.configure(SamplerConfig("euler", calls))
                chunk = latency.ours(model, cond)
                ours, theirs = (lambda: chunk().cpu()), latency.theirs(peer, calls, cond)  # noqa: B023
                ours()
                compiling = time.perf_counter() - began
                timed = paired(ours, lambda: theirs().cpu(), rounds, repeats=20)  # noqa: B023
                taken = [seconds(ours, 1) for _ in range(CHUNKS)]
                quantiles = {f"p{q}": float(np.percentile(taken, q)) for q in (50, 95, 99)}
                one = timed | {"chunk_seconds": quantiles, "network_calls": calls, "compile_seconds": compiling}
                found[f"{name}, {calls} calls, {'graph' if compiled else 'eager'}"] = one
    return found


def measure(rounds: int, seed: int) -> Mapping[str, Any]:
    """Return the cases of steps, of steps with pictures, and of chunks."""
    torch.manual_seed(seed)
    found = {"gpu": torch.cuda.get_device_name()}
    return found | chunks(rounds) | training(rounds) | pictures(rounds)
