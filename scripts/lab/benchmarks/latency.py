"""One chunk of actions at batch 1 on one core: our sampler beside the published network in plain Conv1d.

The peer is driven by diffusers' DDIM scheduler, at as many steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.paired import paired, seconds
from diffpolicy.config import SamplerConfig
from diffpolicy.nets import ConditionalUnet1D
from diffpolicy.nets.unet1d_fast import copy_weights
from diffpolicy.policies import ChunkModel, ModelSpec
from diffpolicy.policies.models.generative import GenerativeModel
from diffpolicy.util.condition import Condition

DIM, COND, HORIZON = 2, 40, 16
WIDTHS = {"64/128/256": (64, 128, 256), "256/512/1024": (256, 512, 1024)}
STEPS = (1, 2, 4, 10)
SOLVERS = ("euler", "heun", "ddim", "dpmpp_2m")
TRAINED = 100  # steps of the peer's noise schedule
SECONDS = 4.0  # of chunks for the quantiles, at most `CHUNKS` of them
CHUNKS = 300


def ours(model: ChunkModel, cond: Tensor) -> Callable[[], Tensor]:
    """Return the drawing of a chunk as a function."""
    generator = torch.Generator().manual_seed(0)
    return lambda: model.sample(Condition(cond), [generator]).chunks


def theirs(net: ConditionalUnet1D, steps: int, cond: Tensor) -> Callable[[], Tensor]:
    """Return the drawing of a chunk by diffusers' DDIM and the network as published, as a function."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(TRAINED, beta_schedule="squaredcos_cap_v2")
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)

    @torch.inference_mode()
    def chunk() -> Tensor:
        x = torch.randn(1, HORIZON, DIM, generator=generator).to(cond.device)
        for k in scheduler.timesteps:
            x = scheduler.step(net(x, k[None].to(cond.device) / TRAINED, Condition(cond)), k, x).prev_sample
        return x

    return chunk


def networks(widths: tuple[int, ...]) -> tuple[GenerativeModel, ConditionalUnet1D]:
    """Return our model of these widths and the published network, with the same weights."""
    features = 128 if widths[0] == 64 else 256  # as published at the large size
    net = {"name": "unet1d", "widths": widths, "time_features": features}
    model = GenerativeModel(ModelSpec(DIM, COND, HORIZON, net=net), {"name": "linear"}, prediction="velocity").eval()
    peer = ConditionalUnet1D(DIM, COND, widths=widths, time_features=features).eval()
    copy_weights(model.net, peer)
    return model, peer


def measure(rounds: int, seed: int) -> Mapping[str, Any]:
    """Return the cases by widths, solver and steps, with quantiles of our chunk and the rate that they allow."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    cond, found = torch.randn(1, COND), {}
    for name, widths in WIDTHS.items():
        model, peer = networks(widths)
        began = time.perf_counter()
        model.freeze(1)
        compiling = time.perf_counter() - began
        for solver, steps in product(SOLVERS, STEPS):
            model.configure(SamplerConfig(solver, steps))
            chunk = ours(model, cond)
            timed = paired(chunk, theirs(peer, steps, cond), rounds, repeats=max(1, 20 // steps))
            count = min(CHUNKS, int(SECONDS / timed["seconds"]["ours"]))
            chunks = [seconds(chunk, 1) for _ in range(count)]
            quantiles = {f"p{q}": float(np.percentile(chunks, q)) for q in (50, 95, 99)}
            found[f"{name}, {solver}, {steps} steps"] = timed | {
                "chunk_seconds": quantiles,
                "chunks_per_second": 1 / quantiles["p99"],
                "network_calls": model.sample(Condition(cond), [torch.Generator()]).calls,
                "compile_seconds": compiling,
            }
    return found
