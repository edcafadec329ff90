"""Guidance on points: with a classifier, and free of one."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from diffpolicy.gallery.learn import Attenuated, learn
from diffpolicy.gallery.paths import mixture, same_time
from diffpolicy.gallery.style import CYCLE, Exhibit, Settings, canvas, cloud, plane, shade
from diffpolicy.generative.classifier import ClassifierObjective, class_log_prob
from diffpolicy.generative.guidance import ClassifierFree, ClassifierGuidance
from diffpolicy.generative.mixture import ExactField
from diffpolicy.generative.objectives import ROWS, DenoisingObjective
from diffpolicy.generative.paths import LinearPath
from diffpolicy.generative.predictions import Field, ModelField
from diffpolicy.generative.sampling import generate
from diffpolicy.generative.solvers import make_solver
from diffpolicy.nets import MLP
from diffpolicy.util.condition import Condition

_CLASSES = 3


class Labeled(nn.Module):
    """An MLP conditioned on a class number (B,) int64; one more number stands for none."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.net = MLP(dim=2, cond_dim=classes + 1, width=128, depth=3)

    def null(self, cond: Tensor) -> Tensor:
        return torch.full_like(cond, self.classes)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, r: Tensor | None = None) -> Tensor:
        return self.net(x, t, Condition(F.one_hot(cond, self.classes + 1).to(x.dtype)))


def guidance_on_points(settings: Settings) -> Figure:
    """Draw samples of three classes by exact, classifier-free and classifier guidance."""
    path, data, scales = LinearPath(), mixture(1.0, 0.55, _CLASSES), (0.0, 1.0, 2.0, 4.0)

    def batch(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        label = data.sample_component(n, generator)
        return {"data": data.sample_given(label, generator).float(), "cond": label}

    loss = DenoisingObjective(path, **ROWS["flow_matching"], condition_dropout=0.2)
    net = learn(lambda: Labeled(_CLASSES), loss, batch, settings)
    classifier = learn(
        lambda: Attenuated(MLP(dim=2, width=64, depth=2, time_features=8, out_dim=_CLASSES), path),
        ClassifierObjective(path),
        batch,
        settings,
        batch_size=1024,
    )
    exact, learned = ExactField(data, path), ModelField(net, path, "velocity")

    def free(field: Field, null: object) -> Field:
        return ClassifierFree(field, 0.0, null)  # w = 0 asks for no class

    guided = {
        "exact": lambda w: ClassifierFree(exact, w, exact.null),
        "classifier-free": lambda w: ClassifierFree(learned, w, net.null),
        "classifier": lambda w: ClassifierGuidance(free(learned, net.null), partial(class_log_prob, classifier), w),
    }
    figure, grid = canvas(len(guided), len(scales), 2.1, 2.1)
    n, steps, side = settings.size(350, 20), settings.size(40, 10), settings.size(100, 30)
    label = torch.arange(_CLASSES).repeat_interleave(n)
    for number, (line, (name, at_scale)) in enumerate(zip(grid, guided.items(), strict=True)):
        for axes, w in zip(line, scales, strict=True):
            shade(axes, lambda x: exact.log_density(x, same_time(1.0, x)), 3.2, side)
            made = generate(
                at_scale(w), path, make_solver("heun"), (len(label), 2), steps, cond=label,
                generator=settings.generator(11),
            )  # fmt: skip
            for k in range(_CLASSES):
                cloud(axes, made[label == k], CYCLE[(1, 2, 3)[k]], 3, 0.6)
            plane(axes, 3.2, f"w = {w:g}" if number == 0 else "", name if w == 0 else "")
    return figure


EXHIBITS = (
    Exhibit(
        "guidance_on_points",
        "Classifier guidance and classifier-free guidance, on points",
        r"\tilde u_t(x \mid y) = (1 - w)\, u_t(x \mid \varnothing) + w\, u_t(x \mid y), \qquad"
        r" \nabla \log p_t(x) + w\, \nabla \log p_t(y \mid x)",
        "classifier-free: ũ(x|y) = (1 − w)·u(x|∅) + w·u(x|y);   with a classifier: score ∇ log p_t(x) + w·∇ log "
        "p_t(y|x)",
        (
            "diffpolicy.generative.guidance:ClassifierFree",
            "diffpolicy.generative.guidance:ClassifierGuidance",
            "diffpolicy.generative.classifier:ClassifierObjective",
            "diffpolicy.generative.objectives:DenoisingObjective",
        ),
        "Three overlapping classes, one color for each class asked for. w = 0 ignores it, w = 1 samples the class, "
        "and beyond that samples leave the overlap for where the class is beyond doubt. With exact fields (above) "
        "the two ways are one; learned, they nearly are. (The classifier is given α·x: see `Attenuated` in "
        "diffpolicy/gallery/learn.py.)",
        guidance_on_points,
        "One line of their derivation prints p(y|x) as p(x|y); the gradient is that of log p_t(y|x).",
    ),
)
