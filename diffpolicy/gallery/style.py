"""What all figures of the gallery share: settings, colors, and how points and densities are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from diffpolicy.util.seeds import generator as keyed_generator

INK, MUTED, FAINT = "#1f2933", "#9aa5b1", "#e4e7eb"
DATA, MODEL = "#0b7285", "#d9480f"  # what is given, and what was made of it
DEEP = "#063f4a"  # data on a shaded ground
VIOLET, GREEN, AMBER = "#5f3dc4", "#2b8a3e", "#e09f00"
CYCLE = (DATA, MODEL, VIOLET, GREEN, AMBER)
SEQUENCE = ("#063f4a", "#0b7285", "#3f9aa8", "#7fbcc6", "#e08a5b", "#d9480f")  # from data to noise
DENSITY = LinearSegmentedColormap.from_list("density", ["#ffffff", "#d6ecf0", "#a3d3dc", "#62b3c0"])

RC = {
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": matplotlib.cycler(color=CYCLE),
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Settings:
    """How a gallery is drawn.

    Args:
        seed: of everything random.
        small: few samples and training steps, for the tests: the same figures, but unfinished.
        checkpoints: of generators, by the task that trained them, "mnist" and "moving_digits"; where there is none, a
            small one is trained, once for all figures.
    """

    seed: int = 0
    small: bool = False
    checkpoints: Mapping[str, Path] = field(default_factory=dict, hash=False)

    def size(self, full: int, small: int) -> int:
        """Return `full`, or `small` in a small gallery."""
        return small if self.small else full

    def generator(self, *key: int) -> torch.Generator:
        """Return a generator for the seed and this key, so that no figure depends on those drawn before it."""
        return keyed_generator(self.seed, *key)


@dataclass(frozen=True)
class Exhibit:
    """One figure, and what stands beside it on the page.

    Args:
        name: of the file, and in `only`.
        title: its heading.
        latex: the formula as GitHub sets it.
        formula: the formula as plain text.
        functions: "module:name" or "module:Class.method" of what implements it.
        see: what to see, in a sentence or two.
        draw: draws the figure, or the frames of a film.
        erratum: what is right, in one line, where the notes print the formula wrongly; else "".
        needs_mnist: whether drawing it reads MNIST.
        draws_with: the task of the generator that it draws with, so that it depends on its checkpoint; else "".
    """

    name: str
    title: str
    latex: str
    formula: str
    functions: tuple[str, ...]
    see: str
    draw: Callable[[Settings], Figure | Sequence[Figure]]
    erratum: str = ""
    needs_mnist: bool = False
    draws_with: str = ""


def canvas(rows: int, columns: int, width: float = 2.1, height: float = 2.1, **ratios: list[float]) -> tuple:
    """Return a figure and its (rows, columns) axes.

    Args:
        rows: of axes.
        columns: of axes.
        width: of each, in inches, about.
        height: of each, in inches, about.
        ratios: `width_ratios` and `height_ratios`.
    """
    figure = Figure(figsize=(width * columns, height * rows + 0.25), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, gridspec_kw=ratios)


def plane(axes: Axes, limit: float = 2.6, title: str = "", side: str = "") -> None:
    """Make axes a bare square of the plane, with a title above and a name at its side."""
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], aspect="equal", title=title)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(FAINT)
    axes.set_ylabel(side)


def cloud(axes: Axes, points: Tensor, color: str = MODEL, size: float = 3, alpha: float = 0.5) -> None:
    """Draw points (N, 2)."""
    x, y = points.double().numpy().T
    axes.scatter(x, y, s=size, color=color, alpha=alpha, linewidths=0)


def lattice(limit: float, side: int) -> Tensor:
    """Return a square grid of points (side², 2) over [−limit, limit]², from the bottom up, float64."""
    line = torch.linspace(-limit, limit, side, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def shade(axes: Axes, log_density: Callable[[Tensor], Tensor], limit: float = 2.6, side: int = 120) -> None:
    """Shade the plane by exp(log_density), a function from (N, 2) to (N,)."""
    density = log_density(lattice(limit, side)).exp().reshape(side, side).numpy()
    shade_grid(axes, density, (-limit, limit, -limit, limit))


def shade_grid(axes: Axes, density: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    """Shade a density (H, W) given on a grid, the first line at the bottom."""
    # The exponent is below 1, so that thin outskirts can be seen beside the peaks.
    norm = PowerNorm(0.7, vmin=0, vmax=max(float(np.quantile(density, 0.997)), 1e-9))
    axes.imshow(density, extent=extent, origin="lower", cmap=DENSITY, norm=norm, aspect="auto", zorder=-1)


def arrows(axes: Axes, at: Tensor, vectors: Tensor, color: str = INK, scale: float = 30.0) -> None:
    """Draw vectors (N, 2) at points (N, 2)."""
    axes.quiver(*at.numpy().T, *vectors.numpy().T, color=color, scale=scale, width=0.006, alpha=0.85)


def histogram(axes: Axes, values: Tensor, color: str = MODEL, bins: int = 50, flat: bool = False) -> None:
    """Draw the density of values (N,) as bars along x, or, `flat`, along y."""
    orientation = "horizontal" if flat else "vertical"
    axes.hist(values.numpy(), bins=bins, density=True, color=color, alpha=0.35, orientation=orientation)
