"""Draw digits from a trained generator into files."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import torch

from diffpolicy import checkpoint
from diffpolicy.config.commands import SampleConfig
from diffpolicy.evaluation.report import provenance
from diffpolicy.images import load_generator
from diffpolicy.images.drawing import draw_images, save_animation, save_grid
from diffpolicy.registry import build
from diffpolicy.util.device import pick_device
from diffpolicy.util.files import write_json


def sample_images(config: SampleConfig) -> str:
    """Draw images as the settings say into files, and return what to tell about them."""
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"out takes a folder, and {out} is a file; choose another name")
    for name in ("digits.json", "digits.png", "digits.gif"):
        if (out / name).exists() and not config.overwrite:
            raise FileExistsError(f"{out / name} exists; choose another out, or say overwrite=true")
    if config.samples < 1 or not config.labels or not config.guidance:
        raise ValueError(f"need samples ≥ 1, labels and guidance; given {config.samples}, {config.labels}, "
                         f"{config.guidance}")  # fmt: skip
    device = pick_device(config.device)
    saved = checkpoint.read(config.checkpoint)  # resolved once: "last" may move on meanwhile
    generator = load_generator(saved.path, config.weights, device)
    path = build("path", config.path) if config.path else None
    generator.method.configure(config.solver, config.steps, config.grid, config.solver_options or None, path)
    for scale in config.guidance:
        generator.field(scale)  # refused here, before anything is drawn

    labels = torch.tensor(config.labels).repeat_interleave(config.samples)
    panels, rows = [], []
    for scale in config.guidance:
        began = time.perf_counter()
        last = config.animation and scale == config.guidance[-1]
        drawn = draw_images(generator, labels, config.seed, scale, config.precision, last, f"w = {scale:g}")
        rows.append({"guidance": scale, "network_calls": generator.calls, "seconds": time.perf_counter() - began})
        panels.append((f"w = {scale:g}, {generator.calls} network calls", drawn[-1] if last else drawn))
    out.mkdir(parents=True, exist_ok=True)
    save_grid(out / "digits.png", panels, config.samples)
    if config.animation:
        save_animation(out / "digits.gif", drawn, config.samples)
    result = {"rows": rows, "sampler": generator.method.sampler, "settings": asdict(config), **provenance()}
    write_json(out / "digits.json", result | {"checkpoint": {"step": saved.step, "sha256": saved.sha256}})
    return f"{len(labels)} digits for each of {len(rows)} scales: {out / 'digits.png'}"
