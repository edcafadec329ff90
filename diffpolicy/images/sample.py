"""Images from a trained generator into files: as a picture, and as numbers."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffpolicy import checkpoint
from diffpolicy.config import SamplerConfig
from diffpolicy.config.commands import SampleConfig
from diffpolicy.evaluation.report import provenance
from diffpolicy.images.drawing import draw_images, save_animation, save_grid
from diffpolicy.images.generator import ImageGenerator, load_generator
from diffpolicy.registry import build
from diffpolicy.util.errors import require
from diffpolicy.util.files import replacing, write_json

LINES = 12
"""Lines of images that are drawn where nothing says which."""

GRID, ANIMATION, FILMS, RECORD = "samples.png", "samples.gif", "films.gif", "samples.json"
ARRAYS = "samples.npz"
FILM = 4  # axes of one


def sample_images(config: SampleConfig) -> str:
    """Draw images as the settings say, write them to files, and return what was drawn, in a line.

    Raises:
        FileExistsError: `out` holds samples and `overwrite` is off, or is a file.
        CheckpointError: no checkpoint of a generator of images.
        ValueError: settings that the generator refuses.
    """
    out = Path(config.out)
    require(not out.exists() or out.is_dir(), f"out={out} is a file", "a folder", error=FileExistsError)
    old = [name for name in (GRID, ANIMATION, FILMS, RECORD, ARRAYS) if (out / name).exists()]
    cure = "choose another out, or overwrite=true"
    require(not old or config.overwrite, f"{out} holds {', '.join(old)}", cure=cure, error=FileExistsError)
    require(config.samples >= 1 and config.guidance, "no samples or no guidance", "samples >= 1 and a scale")
    saved = checkpoint.read(config.checkpoint)  # once: "last" may move on meanwhile
    sampler = SamplerConfig(config.solver, config.steps, config.grid, config.solver_options or None)
    generator = load_generator(saved.path, weights=config.weights, device=config.device)
    generator.configure(sampler, build("path", config.path) if config.path else None)
    for scale in config.guidance:
        generator.check_guidance(scale)  # refused before anything is drawn

    results, panels, states = _draw(generator, config)
    out.mkdir(parents=True, exist_ok=True)
    save_grid(out / GRID, panels, config.samples)
    drawn = {f"w={scale:g}": images.cpu().numpy() for scale, (_, images) in zip(config.guidance, panels, strict=True)}
    with replacing(out / ARRAYS) as file, file.open("wb") as stream:
        np.savez_compressed(stream, **drawn)
    if states is not None:
        save_animation(out / ANIMATION, list(states), config.samples)
    if len(generator.shape) == FILM:
        save_animation(out / FILMS, list(panels[-1][1].unbind(1)), config.samples, rest=0.2)
    lines = config.texts or [generator.texts[k] for k in _labels(generator, config)] if generator.texts else []
    record = {
        "rows": results,
        "lines": lines,
        "sampler": generator.method.sampler,
        "settings": asdict(config),
        **provenance(),
    }
    write_json(out / RECORD, record | {"checkpoint": {"step": saved.step, "sha256": saved.sha256}})
    return f"{len(panels[0][1])} images for each of {len(results)} scales: {out / GRID}"


def _wanted(generator: ImageGenerator, config: SampleConfig) -> Tensor:
    """A label or a text for each line of images."""
    if config.texts:
        require(config.labels is None, f"labels={config.labels} beside texts", "one of the two")
        return generator.read(config.texts)
    return torch.tensor(_labels(generator, config), dtype=torch.int64)


def _labels(generator: ImageGenerator, config: SampleConfig) -> list[int]:
    return list(range(min(generator.labels, LINES)) if config.labels is None else config.labels)


def _draw(
    generator: ImageGenerator, config: SampleConfig
) -> tuple[list[dict[str, float]], list[tuple[str, Tensor]], Tensor | None]:
    """What each scale took, its images under a title, and the states of the last scale for the animation."""
    wanted = _wanted(generator, config).repeat_interleave(config.samples, 0)
    results, panels, states = [], [], None
    for scale in config.guidance:
        trajectory = config.animation and scale == config.guidance[-1]
        began = time.perf_counter()
        drawn, calls = draw_images(
            generator, wanted, config.seed, scale, config.precision, trajectory, f"w = {scale:g}"
        )
        results.append({"guidance": scale, "network_calls": calls, "seconds": time.perf_counter() - began})
        states = drawn if trajectory else None
        panels.append((f"w = {scale:g}, {calls} network calls", drawn[-1] if trajectory else drawn))
    return results, panels, states
