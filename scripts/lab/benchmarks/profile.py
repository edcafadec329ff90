"""Where the time of an optimization step goes, by kind of operation, for the Conv1d peer and at each speed.

Beside it stand the measured peaks of the machine in operations and bytes. The ratio is that of the peer's step to
ours under the profiler; `train_step` times the same without it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.paired import ratio
from benchmarks.train_step import CASES, COND, DIM, SPEEDS, Denoiser, optimization
from diffpolicy.nets import ConditionalUnet1D, FastUnet1D
from diffpolicy.training.precision import Speed

SIDE = 2048  # of the matrices whose product is timed
COPIED = 2**28  # floats that are copied: too many for any cache
# What an operation's name begins with -> its kind; the rest is "other": launching, autograd and Python.
KINDS = {
    "products and convolutions": ("aten::mm", "aten::addmm", "aten::mkldnn_conv", "aten::convolution", "aten::bmm"),
    "norm, Mish, FiLM": (
        *("aten::mish", "aten::native_group_norm", "aten::addcmul", "aten::mul", "aten::add", "## Call Compiled"),
        *("aten::sub", "aten::sum"),
    ),
    "copies and casts": ("aten::copy_", "aten::cat", "aten::fill_", "aten::constant_pad"),
    "optimizer, clipping, average": ("aten::_fused_adamw", "aten::lerp", "aten::linalg_vector_norm", "aten::mul_"),
}


def peaks() -> dict[str, float]:
    """Return GFLOP/s of a large product in both precisions, and GB/s of a large copy (read and written)."""
    found = {}
    for precision in (torch.float32, torch.bfloat16):
        a, b = torch.randn(2, SIDE, SIDE).to(precision)
        seconds = _fastest(lambda a=a, b=b: a @ b)
        found[f"{str(precision).removeprefix('torch.')} GFLOP/s"] = 2 * SIDE**3 / seconds / 1e9
    source, target = torch.zeros(COPIED), torch.zeros(COPIED)
    found["copy GB/s"] = 8 * COPIED / _fastest(lambda: target.copy_(source)) / 1e9
    return found


def _fastest(call: Callable[[], Any], repeats: int = 5) -> float:
    taken = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


def _kind(name: str) -> str:
    # the longest beginning that fits, so that mul_ is not taken for mul
    fits = [(len(start), kind) for kind, starts in KINDS.items() for start in starts if name.startswith(start)]
    return max(fits)[1] if fits else "other"


def _profile(step: Callable[[], Any], rounds: int) -> tuple[list[float], dict[str, float]]:
    """The seconds of each step, and the milliseconds of a step by kind."""
    step(), step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        turns = [_fastest(step, 1) for _ in range(rounds)]
    kinds = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in profiler.key_averages():
        kinds[_kind(event.key)] += event.self_cpu_time_total / 1e3 / (2 * rounds)
    return turns, kinds


def measure(rounds: int, seed: int) -> Mapping[str, Any]:
    """Return the cases by widths and speed."""
    torch.manual_seed(seed)
    machine, found = peaks(), {}
    for name, widths in CASES.items():
        sizes = {"dim": DIM, "cond_dim": COND, "widths": widths, "time_features": 128 if widths[0] == 64 else 256}
        peer = Denoiser(ConditionalUnet1D(**sizes))
        theirs = optimization(peer, peer.batch, Speed.parse("float32"))
        with FlopCounterMode(display=False) as counter:
            theirs()
        gigaflop = counter.get_total_flops() / 1e9
        peers, by_kind = _profile(theirs, rounds)
        bytes_moved = 4 * 16 * sum(parameter.numel() for parameter in peer.parameters()) / 1e9
        found[f"{name}, Conv1d float32"] = _case(peers, peers, by_kind, "float32", gigaflop, bytes_moved, machine)
        for speed in SPEEDS:
            model = Denoiser(FastUnet1D(**sizes))
            ours = optimization(model, model.batch, Speed.parse(speed))
            turns, by_kind = _profile(ours, rounds)
            precision = Speed.parse(speed).precision
            found[f"{name}, {speed}"] = _case(peers, turns, by_kind, precision, gigaflop, bytes_moved, machine)
    return found


def _case(
    peers: list[float],
    turns: list[float],
    kinds: dict[str, float],
    precision: str,
    gigaflop: float,
    gigabyte: float,
    machine: Mapping[str, float],
) -> dict[str, Any]:
    floor = gigaflop / machine[f"{precision} GFLOP/s"] + gigabyte / machine["copy GB/s"]
    return {
        "ratio": ratio(peers, turns),
        "milliseconds_by_kind": kinds,
        "gigaflop": gigaflop,
        # 4 bytes a weight, read or written by AdamW 7 times, clipping 3, the average 3, casts and gradients 3.
        "gigabyte_of_the_weights": gigabyte,
        "machine": machine,
        "roofline_milliseconds": 1e3 * floor,
    }
