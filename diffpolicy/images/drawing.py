"""Many images from a generator, in blocks, and pictures made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from diffpolicy.datasets.images import to_levels
from diffpolicy.images.generator import ImageGenerator
from diffpolicy.util.seeds import generator as keyed_generator

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BLOCK = 250
_IMAGES = 3  # key of the draws, next to those of the training loop


def draw_images(
    generator: ImageGenerator,
    labels: Tensor,
    seed: int,
    guidance: float | None = None,
    precision: str = "float32",
    trajectory: bool = False,
    progress: str | None = None,
) -> Tensor:
    """Images of `labels` (N,) int64, in [−1, 1]: (N, C, H, W), or with `trajectory` (times, N, C, H, W).

    Image i has noise keyed by (seed, i), so that it is the same, up to rounding, however many are asked for.

    Args:
        precision: of the network: "float32", or "bfloat16" (autocast), which is faster.
        progress: what a progress bar says; None shows none.

    Raises:
        ValueError: an unknown precision, no labels, or what `ImageGenerator.draw` raises.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {sorted(PRECISIONS)}; given {precision!r}")
    if labels.ndim != 1 or len(labels) == 0:
        raise ValueError(f"need a row of at least one label; given shape {tuple(labels.shape)}")
    device = next(generator.parameters()).device
    parts = []
    blocks = range(0, len(labels), BLOCK)
    for start in tqdm(blocks, desc=progress, unit="block", disable=progress is None):
        block = labels[start : start + BLOCK].to(device)
        noises = [keyed_generator(seed, _IMAGES, start + row) for row in range(len(block))]
        with torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "float32"):
            parts.append(generator.draw(block, noises, guidance, trajectory).cpu())
    return torch.cat(parts, dim=1 if trajectory else 0)


def tiled(images: Tensor, columns: int, margin: int = 2) -> np.ndarray:
    """One picture (H, W) uint8 of images (N, 1, h, w) in [−1, 1], row by row, on a dark ground."""
    levels = to_levels(images)[:, 0]
    n, h, w = levels.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (h + margin) + margin, columns * (w + margin) + margin), 40, np.uint8)
    for i, image in enumerate(levels.numpy()):
        y, x = margin + i // columns * (h + margin), margin + i % columns * (w + margin)
        sheet[y : y + h, x : x + w] = image
    return sheet


def save_grid(path: Path, panels: Sequence[tuple[str, Tensor]], columns: int) -> None:
    """A PNG with one panel of images (N, 1, h, w) in [−1, 1] per (title, images), side by side."""
    figure = Figure(figsize=(3.6 * len(panels), 4.0), layout="constrained")
    for axes, (title, images) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.imshow(tiled(images, columns), cmap=matplotlib.colormaps["gray"], vmin=0, vmax=255)
        axes.set_title(title)
        axes.axis("off")
    figure.savefig(path, dpi=130)


def save_animation(path: Path, states: Sequence[Tensor], columns: int, frames: int = 40, rest: float = 1.5) -> None:
    """A GIF of states, each images (N, 1, h, w), from noise to digits, which then rest for `rest` seconds."""
    picked = np.unique(np.linspace(0, len(states) - 1, min(frames, len(states))).round().astype(int))
    sheets = [Image.fromarray(tiled(states[i], columns)) for i in picked]
    times = [60] * (len(sheets) - 1) + [round(1000 * rest)]
    sheets[0].save(path, save_all=True, append_images=sheets[1:], duration=times, loop=0)
