"""Spectra of digits: what noise hides first, and what a U-Net loses without its skips."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from torch import Tensor, nn

from diffpolicy.datasets.sources.mnist import CLASSES, load_mnist
from diffpolicy.gallery.learn import labeled, learn
from diffpolicy.gallery.paths import same_time
from diffpolicy.gallery.style import DATA, FAINT, INK, MODEL, MUTED, SEQUENCE, Exhibit, Settings
from diffpolicy.generative.objectives import DenoisingObjective
from diffpolicy.generative.paths import LinearPath
from diffpolicy.generative.predictions import ModelField
from diffpolicy.nets import ConditionalUnet2D

_PATH, _CLEAR = LinearPath(), 0.95  # and the time of little noise at which the networks are compared
_TICKS = (1, 4, 8, 12, 16)


def spectrum(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return frequencies and the mean power of images (B, 1, H, W) on the rings around 0; white noise has 1."""
    side = images.shape[-1]
    power = torch.fft.fft2(images[:, 0]).abs().square().mean(0) / side**2
    line = torch.fft.fftfreq(side) * side
    ring = torch.hypot(line[:, None], line[None]).round().long().flatten()
    rings = torch.arange(1, side // 2 + 1)
    return rings, torch.stack([power.flatten()[ring == one].mean() for one in rings])


def spectra_and_skips(settings: Settings) -> Figure:
    """Draw spectra of digits along the path, and of the errors of a U-Net with and without its skips."""
    batch = load_mnist("test").batch(torch.arange(settings.size(500, 20)))
    data, generator = batch["data"], settings.generator(41)
    noise = torch.randn(data.shape, generator=generator)
    figure = Figure(figsize=(10.5, 6.0), layout="constrained")
    grid = figure.add_gridspec(4, 9)
    _along_the_path(figure, grid, data, noise)
    seen, guesses = _PATH.interpolate(data, noise, same_time(_CLEAR, data).float()), {}
    for name, net in _nets(settings).items():
        with torch.inference_mode():
            guesses[name] = ModelField(net, _PATH, "data")(seen, same_time(_CLEAR, seen), batch["cond"]).data
    shown = {"digit": data, f"x_t, t = {_CLEAR:g}": seen}
    shown |= {name: guess for name, guess in guesses.items()}
    shown |= {
        f"error, {name.removesuffix(' skips')}": (guess - data).abs() * 2 - 1 for name, guess in guesses.items()
    }
    for column, (name, images) in enumerate(shown.items()):
        for row in range(2):
            _picture(figure.add_subplot(grid[2 + row, column]), images[row], name if row == 0 else "")
    axes = figure.add_subplot(grid[2:, 6:])
    power = spectrum(data)[1]
    for (name, guess), color in zip(guesses.items(), (DATA, MODEL), strict=True):
        rings, error = spectrum(guess - data)
        axes.plot(rings, error / power, color=color, label=name)
    axes.plot(rings, spectrum(seen / _CLEAR - data)[1] / power, ":", color=MUTED, label="x_t/α itself")
    axes.set(title="error over the digits' power", xlabel="cycles per picture", ylim=(0, 1.15), xticks=_TICKS)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.legend(loc="upper left")
    return figure


def _along_the_path(figure: Figure, grid: GridSpec, data: Tensor, noise: Tensor) -> None:
    """Draw two digits at several times, and the spectra with a dot where data and noise have equal power."""
    axes = figure.add_subplot(grid[:2, 6:])
    rings, power = spectrum(data)
    for column, (t, color) in enumerate(zip((1.0, 0.9, 0.75, 0.5, 0.25, 0.0), SEQUENCE, strict=True)):
        states = _PATH.interpolate(data, noise, same_time(t, data).float())
        for row in range(2):
            _picture(figure.add_subplot(grid[row, column]), states[row], f"t = {t:g}" if row == 0 else "")
        _, values = spectrum(states)
        axes.semilogy(rings, values, color=color, label=f"t = {t:g}")
        drowned = t**2 * power < (1 - t) ** 2
        if drowned.any() and not drowned.all():
            first = int(drowned.nonzero()[0])
            axes.plot(rings[first], values[first], "o", color=color, markersize=5)
    axes.set(title="power of x_t by frequency", xlabel="cycles per picture", xticks=_TICKS)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.legend(ncols=2, loc="lower left")


def _nets(settings: Settings) -> dict[str, nn.Module]:
    """One small U-Net that predicts the data, trained alike with and without its skips."""
    digits = load_mnist("train")
    widths = settings.size((8, 16, 32, 32), (8, 8))

    def net(skips: bool) -> ConditionalUnet2D:
        return ConditionalUnet2D(
            1, CLASSES, widths=widths, layers=1, features=settings.size(32, 8), block="adaptive", skips=skips
        )

    loss = DenoisingObjective(_PATH, "data", weighting="min_snr")
    return {
        f"with{'' if skips else 'out'} skips": learn(
            lambda skips=skips: net(skips), loss, labeled(digits), settings, steps=350, batch_size=32, lr=8e-3
        )
        for skips in (True, False)
    }


def _picture(axes: Axes, image: Tensor, title: str) -> None:
    axes.imshow(image[0].clamp(-1, 1), cmap="gray", vmin=-1, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8.5, color=INK)
    axes.spines[:].set_visible(False)


EXHIBITS = (
    Exhibit(
        "spectra_and_skips",
        "High frequencies drown first, and skips carry them",
        r"\mathbb E\,\lvert F x_t \rvert^2(k) = \alpha_t^2\, \mathbb E\,\lvert F z \rvert^2(k) + \sigma_t^2, \qquad"
        r" h \leftarrow \mathrm{up}(h + h_{\mathrm{skip}})",
        "E|F x_t|²(k) = α_t²·E|F z|²(k) + σ_t² at frequency k;   decoder: h ← up(h + h_skip), or up(h) without skips",
        (
            "diffpolicy.gallery.spectra:spectrum",
            "diffpolicy.generative.paths:Path.interpolate",
            "diffpolicy.nets.unet2d:ConditionalUnet2D",
        ),
        "Above: noise has the same power at every frequency, digits have little at high ones. From the dot on noise "
        "has more than the data, and as t falls the dot moves left. Below: one small U-Net, trained alike for 350 "
        "steps with and without skips, is to tell the digit from an input with little noise. Without skips all must "
        "pass the coarsest layer, and the error reaches half of the digits' power at 9 cycles, with skips at 12. So "
        "short a training blurs both: at high frequencies the input itself (dotted) is nearer to the digit.",
        spectra_and_skips,
        needs_mnist=True,
    ),
)
