"""Markdown tables of what the benchmarks measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from text_tables import markdown, ratio

Cases = Mapping[str, Any]
"""The contents of a benchmark's file: its cases by name, and with what it was measured."""


def _cases(found: Cases) -> dict[str, dict[str, Any]]:
    return {case: one for case, one in found.items() if isinstance(one, dict) and "ratio" in one}


def train_step(found: Cases) -> str:
    """Return the table of one optimization step beside the Conv1d peer."""
    lines = []
    for case, one in _cases(found).items():
        widths, speed = case.split(", ")
        ours, peer = (f"{1e3 * one['seconds'][who]:.0f}" for who in ("ours", "peer"))
        lines.append([widths, f"`{speed}`", ours, peer, ratio(one["ratio"]), f"{one['first_step_seconds']:.1f}"])
    return markdown("widths | speed | ms | Conv1d, ms | ratio [range] | first step, s", lines)


def profile(found: Cases) -> str:
    """Return the table of a step's milliseconds by kind of operation."""
    cases = _cases(found)
    kinds = list(next(iter(cases.values()))["milliseconds_by_kind"])
    lines = []
    for case, one in cases.items():
        times = one["milliseconds_by_kind"]
        bound = f"{one['roofline_milliseconds']:.0f}"
        lines.append([case, *(f"{times[kind]:.1f}" for kind in kinds), f"{sum(times.values()):.0f}", bound])
    header = " | ".join(["case", *kinds, "sum", "roofline"]).replace("optimiser", "optimizer")  # of earlier releases
    return markdown(header, lines)


def machine(found: Cases) -> str:
    """Return the table of the measured peaks of the machine that was profiled."""
    one = next(iter(_cases(found).values()))
    return markdown("peak | measured", [[name, f"{value:.0f}"] for name, value in one["machine"].items()])


def latency(found: Cases) -> str:
    """Return the table of one chunk at batch 1."""
    lines = []
    for case, one in _cases(found).items():
        quantiles = [f"{1e3 * one['chunk_seconds'][q]:.2f}" for q in ("p50", "p95", "p99")]
        peer = f"{1e3 * one['seconds']['peer']:.1f}" if "peer" in one["seconds"] else ""
        rate = f"{one['chunks_per_second']:.0f}"
        lines.append([case, str(one["network_calls"]), *quantiles, rate, peer, ratio(one["ratio"])])
    return markdown("case | calls | p50, ms | p95 | p99 | chunks/s | Conv1d + DDIM, ms | ratio [range]", lines)


def evaluate(found: Cases) -> str:
    """Return the table of an evaluation in several processes and in one."""
    lines = []
    for case, one in _cases(found).items():
        seconds = [f"{one['seconds'][who]:.0f}" for who in ("ours", "peer")]
        lines.append([case, *seconds, ratio(one["ratio"]), str(one["equal_episodes"])])
    return markdown("case | sharded, s | one process, s | ratio [range] | episodes equal", lines)


def loader(found: Cases) -> str:
    """Return the table of streaming from disk."""
    lines = []
    for case, one in _cases(found).items():
        if "peak_mib" in one:
            peaks = ", ".join(f"{frames} frames: {value:.0f} MiB" for frames, value in one["peak_mib"].items())
            says = f"{peaks}; {one['difference_mib']:+.0f} MiB (of which images at most {one['stated_mib']:.0f})"
        else:
            rates = one["windows_per_second"]
            says = f"{rates['loader']:,.0f} windows/s; the training step takes {rates['training']:,.0f}"
        lines.append([case, says, ratio(one["ratio"])])
    return markdown("case | measured | ratio [range]", lines)


def overhead(found: Cases) -> str:
    """Return the table of what the rollout loop and the adapter add to a step."""
    lines = []
    for case, one in _cases(found).items():
        added = one["overhead_us"]
        spread = f"{added['median']:.0f} [{added['low']:.0f}, {added['high']:.0f}]"
        share = one["seconds"]["ours"] / one["seconds"]["peer"] - 1
        lines.append([case, spread, f"{share:.1%}" if "within_budget" in one else ""])
    return markdown("environment | added to a step, µs | of the step", lines)


def conversion(found: Cases) -> str:
    """Return the table of converting video."""
    lines = []
    for codec, one in found["conversion"].items():
        turns = [f"{turn:.0f}" for turn in (min(one["turns"]), max(one["turns"]))]
        lines.append([codec.upper(), f"{one['frames_per_second']:.0f} [{', '.join(turns)}]"])
    return markdown("video | frames of 480 × 640 converted a second", lines)


READERS = ("read", "decoded", "cached", "pyav")
"""How frames are read, by their names in a file of `recordings.py reading`."""


def reading(full: Cases, resized: Cases) -> str:
    """Return the table of reading frames for training, beside decoding the video."""
    lines = []
    for size, found in (("480 × 640", full), ("120 × 160, converted with `resize=`", resized)):
        for codec, one in found["reading"].items():
            rates = [f"{one[f'{how}_per_second']:,.0f}" for how in READERS]
            ratios = [f"{one[f'ratio_to_{how}']:.1f}" for how in READERS[1:]]
            beside = map(" / ".join, zip(rates[1:], ratios, strict=True))
            lines.append([f"{codec.upper()}, {size}", rates[0], *beside])
    how = "front to back | at random, file kept open | at random, file opened anew"
    return markdown(f"video, and what is read | frames/s | {how}", lines)


TABLES = {
    "train_step": (train_step, "train_step"),
    "profile": (profile, "profile"),
    "machine": (machine, "profile"),
    "latency": (latency, "latency"),
    "evaluate": (evaluate, "evaluate"),
    "loader": (loader, "loader"),
    "overhead": (overhead, "overhead"),
}
"""Tables by the name of their markers, each with the benchmark whose file it reads."""
