"""Draw digits from a trained generator:

diffpolicy-sample-images checkpoint=RUN/checkpoints/last out=OUT guidance=[1,3,5]
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING

from diffpolicy import checkpoint
from diffpolicy.evaluation.report import provenance, write_json
from diffpolicy.images import load_generator
from diffpolicy.images.drawing import draw_images, save_animation, save_grid
from diffpolicy.registry import build
from diffpolicy.scripts._hydra import command, pick_device


@dataclass
class Config:
    """Settings of a drawing.

    checkpoint, out: a checkpoint's folder, and the folder for the pictures.
    guidance: scales w of classifier-free guidance, one panel each; 1 is none.
    labels, samples: which digits, a row each, and how many of each.
    solver, steps, grid, solver_options: of the sampler; null keeps the training's.
    path: on which to sample, {name: ddpm, steps: 1000} for example; empty is the training's.
    precision: of the network, float32 or bfloat16.
    animation: whether to show the way from noise to digits, of the last scale.
    """

    checkpoint: str = MISSING
    out: str = MISSING
    guidance: list[float] = field(default_factory=lambda: [1.0, 3.0, 5.0])
    labels: list[int] = field(default_factory=lambda: list(range(10)))
    samples: int = 10
    solver: str | None = None
    steps: int | None = None
    grid: str | None = None
    solver_options: dict[str, Any] = field(default_factory=dict)
    path: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    weights: str = "ema"
    precision: str = "float32"
    device: str = "auto"
    animation: bool = True
    overwrite: bool = False


def run(config: Config) -> None:
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
    print(f"{len(labels)} digits for each of {len(rows)} scales: {out / 'digits.png'}")


main = command("sample_images", Config, run)

if __name__ == "__main__":
    main()
