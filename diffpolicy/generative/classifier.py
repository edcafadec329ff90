"""Classifiers of noised data, which classifier guidance needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from diffpolicy.generative.objectives import draw, entry
from diffpolicy.generative.paths import Path
from diffpolicy.generative.shapes import Generators, as_input
from diffpolicy.generative.weighting import TIMES
from diffpolicy.util import names


def class_log_prob(net: Callable[..., Tensor], x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
    """Return log p(cond|x_t) (B,) of a classifier; `partial(class_log_prob, net)` is what `ClassifierGuidance` takes.

    Args:
        net: `net(x, t) -> logits (B, classes)`, trained by `ClassifierObjective`.
        x: (B, *shape).
        t: (B,).
        cond: labels (B,) int64.
    """
    return torch.log_softmax(net(x, as_input(t, x)), 1).gather(1, cond[:, None])[:, 0]


@final
@dataclass(frozen=True)
class ClassifierObjective:
    """−log p(cond|x_t) of a classifier `net(x, t) -> logits (B, classes)`, at x_t of every noise level.

    A classifier that saw clean data alone has no gradient to speak of at x_t (Dhariwal & Nichol 2021, section 4.2).

    Args:
        path: the probability path.
        times: how t is drawn, one of `TIMES`.

    Raises:
        ValueError: an unknown draw of times; when called, a batch without "data" or "cond", which is (B,) int64.
    """

    path: Path
    times: str = "uniform"

    def __post_init__(self) -> None:
        names.check("draw of times", self.times, TIMES)

    def __call__(self, net: Callable[..., Tensor], batch: Mapping[str, Any], generator: Generators = None) -> Tensor:
        cond = entry(batch, "cond")
        data, t, noise = draw(batch, TIMES[self.times], self.path, generator)
        return -class_log_prob(net, self.path.interpolate(data, noise, t), t, cond)
