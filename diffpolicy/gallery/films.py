"""Films of digits that move as words say, by the files that draw digits and actions."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from diffpolicy.config import SamplerConfig
from diffpolicy.datasets.images import LabeledImages
from diffpolicy.datasets.sources.mnist import load_mnist
from diffpolicy.datasets.sources.moving_digits import MovingDigits, moving
from diffpolicy.gallery.learn import learn_images
from diffpolicy.gallery.style import Exhibit, Settings, canvas
from diffpolicy.images import ImageGenerator, found_in, load_generator

TASK = "moving_digits"
TEXTS = ("a slow three moving left", "a fast three moving left", "a fast seven moving up", "a zero moving down slow")
SCALES = (0.0, 1.0, 2.0)


def _briefly_trained(settings: Settings) -> ImageGenerator:
    """A generator of films of fewer digits."""
    digits, count = load_mnist("train"), settings.size(12_000, 200)
    films = moving(LabeledImages(digits.levels[:count], digits.labels[:count]), settings.seed)
    return learn_images(TASK, films, found_in(films, MovingDigits.classes, MovingDigits.texts), settings, steps=500)


def films_by_words(settings: Settings) -> Sequence[Figure]:
    """Draw films of a few texts, a line each, at several scales of guidance; one figure for each moment."""
    given = settings.checkpoints.get(TASK)
    generator = load_generator(given) if given else _briefly_trained(settings)
    generator.configure(SamplerConfig("heun", settings.size(12, 2), "uniform"))
    films = []
    for w in SCALES:
        noises = [settings.generator(61, i) for i in range(len(TEXTS))]
        films.append(generator.draw(generator.read(TEXTS), noises, w)[0])
    figures = []
    for moment in range(films[0].shape[1]):
        figure, grid = canvas(len(SCALES), len(TEXTS), 1.9, 1.9)
        for line, w, drawn in zip(grid, SCALES, films, strict=True):
            for axes, film, text in zip(line, drawn, TEXTS, strict=True):
                axes.imshow(film[moment, 0], cmap="gray", vmin=-1, vmax=1)
                axes.set(xticks=[], yticks=[], title=text if w == SCALES[0] else "")
                axes.spines[:].set_visible(False)
            line[0].set_ylabel(f"w = {w:g}")
        figures.append(figure)
    return figures


EXHIBITS = (
    Exhibit(
        "films_by_words",
        "Films as words say",
        r"\tilde u_t(x \mid \text{text}) = (1 - w)\, u_t(x \mid \varnothing) + w\, u_t(x \mid \text{text}), \qquad"
        r" x \in \mathbb R^{T \times C \times H \times W}",
        "ũ(x|text) = (1 − w)·u(x|∅) + w·u(x|text),  x in R^(T×C×H×W)",
        (
            "diffpolicy.nets.text:WordsEncoder",
            "diffpolicy.nets.text:ToldNetwork",
            "diffpolicy.nets.around:FilmNetwork",
            "diffpolicy.generative.guidance:ClassifierFree",
        ),
        "Films of eight frames, of the same noise in every line. At w = 0 the words say nothing; from w = 1 on the "
        "digit moves where and as fast as they say, and mostly is the one that they name. A small transformer over "
        "the words and the U-Net are trained together, by the loop that trains policies.",
        films_by_words,
        needs_mnist=True,
        draws_with=TASK,
    ),
)
"""The exhibits of this file."""
