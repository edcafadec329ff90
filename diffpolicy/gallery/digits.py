"""Digits: the forward chain, inversion, and guidance by the same wrappers as on points."""

from __future__ import annotations

import copy
import functools
import math
from functools import partial

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from diffpolicy.config import SamplerConfig
from diffpolicy.datasets.sources.mnist import CLASSES, SIDE, load_mnist
from diffpolicy.gallery.learn import Attenuated, labeled, learn, learn_images
from diffpolicy.gallery.spectra import spectrum
from diffpolicy.gallery.style import FAINT, SEQUENCE, Exhibit, Settings, canvas
from diffpolicy.generative.classifier import ClassifierObjective, class_log_prob
from diffpolicy.generative.guidance import ClassifierGuidance
from diffpolicy.generative.inversion import invert
from diffpolicy.generative.paths import DiscretePath
from diffpolicy.generative.predictions import Field
from diffpolicy.generative.sampling import generate
from diffpolicy.generative.shapes import randn
from diffpolicy.generative.solvers import make_solver
from diffpolicy.images import ImageGenerator, found_in, load_generator
from diffpolicy.images.drawing import tiled
from diffpolicy.nets.classifier import ImageClassifier


class NoisedImageClassifier(nn.Module):
    """A classifier of noised images, with the time as a second channel: net(x, t) -> logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ImageClassifier(shape=(2, SIDE, SIDE), classes=CLASSES, widths=(16, 32, 64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        level = t[:, None, None, None].expand(-1, 1, SIDE, SIDE)
        return self.net(torch.cat([x, level], dim=1))


def _generator(settings: Settings) -> ImageGenerator:
    """A generator to configure at will: the checkpoint's, or a copy of the one that is briefly trained."""
    given = settings.checkpoints.get("mnist")
    return load_generator(given) if given else copy.deepcopy(_briefly_trained(settings))


@functools.cache  # one training for all figures that draw digits with it
def _briefly_trained(settings: Settings) -> ImageGenerator:
    """The one that all these figures share."""
    digits = load_mnist("train")
    return learn_images("mnist", digits, found_in(digits, CLASSES), settings, steps=700)


def guidance_on_digits(settings: Settings) -> Figure:
    """Draw digits by classifier-free and by classifier guidance at several scales."""
    digits = load_mnist("train")
    generator = _generator(settings)
    # The recipe's own sampler is for images seen one by one; for a page of small ones this is enough.
    generator.configure(SamplerConfig("heun", settings.size(12, 2), "uniform"))
    path = generator.method.sampling_path
    classifier = learn(
        lambda: Attenuated(NoisedImageClassifier(), path),
        ClassifierObjective(path),
        labeled(digits),
        settings,
        600,
        128,
        lr=2e-3,
    ).requires_grad_(False)
    scales, copies = (0.0, 1.0, 3.0, 5.0), settings.size(6, 1)
    labels = torch.arange(CLASSES).repeat(copies)

    def by_classifier(w: float) -> Field:
        # At guidance 0 the generator asks for no digit; the classifier alone says which.
        return ClassifierGuidance(generator.field(0.0), partial(class_log_prob, classifier), w)

    figure, grid = canvas(2, len(scales), 2.9, 1.85)
    for number, (line, (name, at_scale)) in enumerate(
        zip(grid, (("classifier-free", generator.field), ("classifier", by_classifier)), strict=True)
    ):
        for axes, w in zip(line, scales, strict=True):
            noises = [settings.generator(12, i) for i in range(len(labels))]
            x = randn((len(labels), *generator.shape), noises, dtype=torch.float32, device="cpu")
            images, _ = generator.method.draw(at_scale(w), x, labels, noises)
            axes.imshow(tiled(images, CLASSES), cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[], title=f"w = {w:g}" if number == 0 else "", ylabel=name if w == 0 else "")
            axes.spines[:].set_visible(False)
    return figure


def forward_chain(settings: Settings) -> Figure:
    """Draw the forward chain on digits, step by step, and how the spectrum of what it leaves falls."""
    digits, path = load_mnist("train"), DiscretePath(1000)
    shown, count = (0, 100, 250, 400, 600, 999), settings.size(400, 20)
    x, generator = digits.batch(torch.arange(count))["data"], settings.generator(40)
    states, every = {}, {}
    for k, beta in enumerate(path.betas.tolist()):  # q(x_k | x_{k−1}), which the closed form sums up
        noise = torch.randn(x.shape, generator=generator)
        x = math.sqrt(1 - beta) * x + math.sqrt(beta) * noise
        if k in shown:
            states[k], every[k] = x[:4], x
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    grid = figure.add_gridspec(2, 8)
    for column, (k, kept) in enumerate(states.items()):
        for row in range(2):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(kept[row, 0].clamp(-1, 1), cmap="gray", vmin=-1, vmax=1)
            axes.set(xticks=[], yticks=[], title=f"k = {k}" if row == 0 else "")
            axes.spines[:].set_visible(False)
    axes = figure.add_subplot(grid[:, 6:])
    for color, (k, kept) in zip(SEQUENCE, every.items(), strict=True):
        axes.semilogy(*spectrum(kept), color=color, label=f"k = {k}")
    axes.set(title="mean power by frequency", xlabel="cycles per picture")
    axes.grid(color=FAINT, linewidth=0.6)
    axes.legend()
    return figure


def inversion(settings: Settings) -> Figure:
    """Draw digits, the noise that they come from, what comes back of it, and what lies between two noises."""
    digits = load_mnist("train")
    generator, counts = _generator(settings), (3, 5, 20)
    images = digits.batch(torch.arange(settings.size(6, 3)))
    data, labels = images["data"], images["cond"]
    field, path, solver = generator.field(1.0), generator.method.path, make_solver("heun")
    figure, grid = canvas(len(data), 2 * len(counts) + 1, 1.2, 1.2)
    lines, noises = [data], []
    for steps in counts:
        noises.append(invert(field, path, solver, data, steps, "log_snr", labels))
        back = generate(field, path, solver, data.shape, steps, "log_snr", labels, start=noises[-1])
        lines += [noises[-1], back]
    titles = ["digit", *(word for n in counts for word in (f"noise, {n}", f"back, {n}"))]
    for number, row in enumerate(grid):
        for axes, values, title in zip(row, lines, titles, strict=True):
            axes.imshow(values[number, 0].clamp(-2, 2), cmap="gray", vmin=-1, vmax=1)
            error = float((values - data).square().mean().sqrt()) if title.startswith("back") else None
            head = title if error is None else f"{title}: {error:.3f}"
            axes.set(xticks=[], yticks=[], title=head if number == 0 else "")
            axes.spines[:].set_visible(False)
    return figure


EXHIBITS = (
    Exhibit(
        "forward_chain",
        "The forward chain on digits, and what noise hides first",
        r"q(x_k \mid x_{k-1}) = \mathcal N(\sqrt{1 - \beta_k}\, x_{k-1}, \beta_k I), \qquad"
        r" q(x_k \mid x) = \mathcal N(\sqrt{\bar\alpha_k}\, x, (1 - \bar\alpha_k) I)",
        "q(x_k|x_(k−1)) = N(√(1 − β_k)·x_(k−1), β_k·I),  and so  q(x_k|x) = N(√ᾱ_k·x, (1 − ᾱ_k)·I)",
        (
            "diffpolicy.generative.paths:DiscretePath.betas",
            "diffpolicy.generative.paths:DiscretePath.alpha_bar",
        ),
        "The chain itself, a thousand small steps. Digits have most of their power in coarse shapes, "
        "noise has as much "
        "at every frequency: it hides fine strokes first, and a sampler on its way back finds the coarse "
        "shape first.",
        forward_chain,
        needs_mnist=True,
    ),
    Exhibit(
        "inversion",
        "From digits back to their noise",
        r"\frac{\mathrm d x}{\mathrm d t} = u_t(x), \qquad t: 1 \to 0 \to 1",
        "dx/dt = u_t(x), from t = 1 to 0 and back",
        (
            "diffpolicy.generative.inversion:invert",
            "diffpolicy.generative.sampling:generate",
        ),
        "A flow has an inverse: every digit has one noise, and comes back from it, the better the more steps (given "
        "are their number and the root mean square error). That one still sees the digit in its noise is the "
        "network's doing, which trained for a minute or two: an exact flow's noise is white.",
        inversion,
        needs_mnist=True,
        draws_with="mnist",
    ),
    Exhibit(
        "guidance_on_digits",
        "Classifier guidance and classifier-free guidance, on digits",
        r"\tilde u_t(x \mid y) = (1 - w)\, u_t(x \mid \varnothing) + w\, u_t(x \mid y), \qquad"
        r" \nabla \log p_t(x) + w\, \nabla \log p_t(y \mid x)",
        "classifier-free: ũ(x|y) = (1 − w)·u(x|∅) + w·u(x|y);   classifier: score ∇ log p_t(x) + w·∇ log p_t(y|x)",
        (
            "diffpolicy.images:ImageGenerator.field",
            "diffpolicy.generative.guidance:ClassifierFree",
            "diffpolicy.generative.guidance:ClassifierGuidance",
            "diffpolicy.generative.classifier:ClassifierObjective",
        ),
        "In every panel the columns ask for 0 to 9, from the same noise. w = 0 draws any digit, w = 1 mostly the one "
        "asked for, and beyond that they get clearer and more alike. A small classifier of noised images pushes the "
        "same way, but turns fewer of them into what was asked for.",
        guidance_on_digits,
        "One line of their derivation prints p(y|x) as p(x|y); the gradient is that of log p_t(y|x).",
        needs_mnist=True,
        draws_with="mnist",
    ),
)
