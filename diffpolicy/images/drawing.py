"""Many images from a generator, in blocks, and files that show them."""

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
from diffpolicy.images.generator import Drawn, ImageGenerator
from diffpolicy.util import names, seeds
from diffpolicy.util.errors import require

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BLOCK = 250
_GROUND = 40  # gray level between images
_FRAME_MS = 60


def draw_images(
    generator: ImageGenerator,
    labels: Tensor,
    seed: int,
    guidance: float | None = None,
    precision: str = "float32",
    trajectory: bool = False,
    progress: str | None = None,
) -> Drawn:
    """Return images of many labels, on the CPU, with the network calls of a block.

    Image i has noise keyed by (seed, i), so that it is the same, up to rounding, however many are asked for.

    Args:
        generator: draws them.
        labels: (N,) int64; or texts (N, L), see `ImageGenerator.read`.
        seed: of the noise.
        guidance: scale w; None is the generator's default.
        precision: of the network: "float32", or "bfloat16" (autocast), which is faster.
        trajectory: return the states at all times of the sampler's grid, (times, N, C, H, W).
        progress: label of a progress bar; None shows none.

    Raises:
        ValueError: an unknown precision, no labels, or what `ImageGenerator.draw` refuses.
    """
    names.check("precision", precision, PRECISIONS)
    fits = labels.ndim in (1, 2) and len(labels)
    require(fits, f"labels of shape {tuple(labels.shape)}", "at least one label, (N,), or text, (N, L)")
    device = next(generator.parameters()).device
    images, calls = [], 0
    blocks = range(0, len(labels), BLOCK)
    for start in tqdm(blocks, desc=progress, unit="block", disable=progress is None):
        block = labels[start : start + BLOCK].to(device)
        noises = [seeds.generator(seed, "images", start + i) for i in range(len(block))]
        with torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "float32"):
            drawn, calls = generator.draw(block, noises, guidance, trajectory)
        images.append(drawn.cpu())
    return Drawn(torch.cat(images, dim=1 if trajectory else 0), calls)


def as_images(samples: Tensor) -> Tensor:
    """Return samples as images: films (B, T, C, H, W) with frames as channels, points (B, N, 3) by `views`."""
    if samples.ndim == 3:
        return views(samples)
    return samples.flatten(1, 2) if samples.ndim == 5 else samples


def as_shown(samples: Tensor) -> Tensor:
    """Return samples as people look at them: films with their frames side by side, points from three sides."""
    if samples.ndim == 3:
        return views(samples, 48)
    return torch.cat(samples.unbind(1), dim=-1) if samples.ndim == 5 else samples


def views(points: Tensor, side: int = 32) -> Tensor:
    """Return what sets of points (B, N, 3) look like from three sides, as channels (B, 3, side, side) in [−1, 1].

    Args:
        points: in [−1, 1], each of which lights a pixel; those outside are not seen.
        side: px.
    """
    shown = torch.full((len(points), 3, side, side), -1.0)
    rows = torch.arange(len(points))[:, None].expand(points.shape[:2])
    for view, (across, down) in enumerate(((0, 1), (0, 2), (1, 2))):
        x, y = (((points[..., axis].cpu() + 1) / 2 * side).floor().long() for axis in (across, down))
        inside = (x >= 0) & (x < side) & (y >= 0) & (y < side)
        shown[rows[inside], view, y[inside], x[inside]] = 1.0
    return shown


def tiled(images: Tensor, columns: int, margin: int = 2) -> np.ndarray:
    """Return a sheet (H, W, C) uint8 of samples in [−1, 1], see `as_shown`, from left to right, on a dark ground."""
    levels = to_levels(as_shown(images)).movedim(1, -1)
    n, h, w, channels = levels.shape
    lines = -(-n // columns)
    size = (lines * (h + margin) + margin, columns * (w + margin) + margin, channels)
    sheet = np.full(size, _GROUND, np.uint8)
    for i, image in enumerate(levels.numpy()):
        y, x = margin + i // columns * (h + margin), margin + i % columns * (w + margin)
        sheet[y : y + h, x : x + w] = image
    return sheet


def save_grid(path: Path, panels: Sequence[tuple[str, Tensor]], columns: int) -> None:
    """Write a PNG of several sheets side by side.

    Args:
        path: of the file.
        panels: (title, images (N, C, h, w) in [−1, 1]) of each sheet.
        columns: images side by side in a sheet.
    """
    figure = Figure(figsize=(3.6 * len(panels), 4.0), layout="constrained")
    for axes, (title, images) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.imshow(tiled(images, columns), cmap=matplotlib.colormaps["gray"], vmin=0, vmax=255)
        axes.set_title(title)
        axes.axis("off")
    figure.savefig(path, dpi=130)


def save_animation(path: Path, states: Sequence[Tensor], columns: int, frames: int = 40, rest: float = 1.5) -> None:
    """Write a GIF from noise to images, or of films, frame after frame.

    Args:
        path: of the file.
        states: images (N, C, h, w) at successive times, or the frames of films.
        columns: images side by side.
        frames: number of states shown at most.
        rest: seconds for which the last one is shown.
    """
    picked = np.unique(np.linspace(0, len(states) - 1, min(frames, len(states))).round().astype(int))
    sheets = [tiled(states[i], columns) for i in picked]
    shown = [Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet) for sheet in sheets]
    times = [_FRAME_MS] * (len(shown) - 1) + [round(1000 * rest)]
    shown[0].save(path, save_all=True, append_images=shown[1:], duration=times, loop=0)
