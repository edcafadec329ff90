"""Guidance on digits: the same wrappers as on points, around the network for images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from diffpolicy.config import SamplerConfig
from diffpolicy.config.compose import compose
from diffpolicy.datasets.images import LabeledImages
from diffpolicy.datasets.sources.mnist import CLASSES, SIDE, load_mnist
from diffpolicy.gallery.learn import Attenuated, learn
from diffpolicy.gallery.style import Exhibit, Settings, canvas
from diffpolicy.generative.classifier import ClassifierObjective, class_log_prob
from diffpolicy.generative.guidance import ClassifierGuidance
from diffpolicy.generative.predictions import Field
from diffpolicy.generative.shapes import randn
from diffpolicy.images import ImageGenerator, build_generator, found_in, load_generator
from diffpolicy.images.drawing import tiled
from diffpolicy.nets.classifier import ImageClassifier
from diffpolicy.training.learner import Batch


class NoisedImageClassifier(nn.Module):
    """A classifier of noised images, with the time as a second channel: net(x, t) -> logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ImageClassifier(shape=(2, SIDE, SIDE), classes=CLASSES, widths=(16, 32, 64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        level = t[:, None, None, None].expand(-1, 1, SIDE, SIDE)
        return self.net(torch.cat([x, level], dim=1))


def _generator(settings: Settings, digits: LabeledImages) -> ImageGenerator:
    """The checkpoint's generator, or one by the recipe of `task=mnist` at half its width, briefly trained."""
    if settings.digits is not None:
        return load_generator(settings.digits)
    size = ["net.widths=[8,16]", "net.layers=1", "net.features=8"] if settings.small else ["net.widths=[64,128]"]
    config = replace(compose(["task=mnist", "run_dir=unused", *size]), found=found_in(digits, CLASSES))
    return learn(
        lambda: build_generator(config),
        lambda model, batch, generator: model.loss(batch, generator),
        _batches(digits),
        settings,
        steps=700,
        batch_size=config.training.batch_size,
        lr=config.training.lr,
    ).requires_grad_(False)


def _batches(digits: LabeledImages) -> Callable[[int, torch.Generator], Batch]:
    return lambda n, generator: digits.batch(torch.randint(len(digits), (n,), generator=generator))


def guidance_on_digits(settings: Settings) -> Figure:
    """Draw digits by classifier-free and by classifier guidance at several scales."""
    digits = load_mnist("train")
    generator = _generator(settings, digits)
    # The recipe's own sampler is for images seen one by one; for a page of small ones this is enough.
    generator.configure(SamplerConfig("heun", settings.size(12, 2), "uniform"))
    path = generator.method.sampling_path
    classifier = learn(
        lambda: Attenuated(NoisedImageClassifier(), path),
        ClassifierObjective(path),
        _batches(digits),
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


EXHIBITS = (
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
        "One line of the notes' derivation prints p(y|x) as p(x|y); the gradient is that of log p_t(y|x).",
        needs_mnist=True,
    ),
)
