"""What a network outputs, and the one place that turns it into (data, noise).

Three calling contracts, one above the other:

- a network `net(x, t, cond, r=None)` with x (B, *shape), t (B,) or (B, T), an encoded condition (anything, or None)
  and the later time r of two-time methods; it returns (B, *shape) and knows nothing of paths;
- a field `(x, t, cond) -> Estimate`; guidance wraps fields into fields;
- a flow map `(x, t, s, cond) -> x_s`; solvers make one of a field, and `sample` follows it.

Where α = 0 (t = 0 on the linear and cosine paths) x is pure noise, so a noise or score prediction says nothing about
the data; where σ = 0 (t = 1) x is pure data, so a data prediction says nothing about the noise. There, that is where
α ≤ ALPHA_MIN or σ ≤ SIGMA_MIN, x itself is taken as the one and 0, the mean of normalized data and of noise, as the
other. These two clamps are in `estimate` and nowhere else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, final

import torch
from torch import Tensor

from diffpolicy.generative.paths import Path
from diffpolicy.generative.shapes import as_input, expand, where
from diffpolicy.util import names
from diffpolicy.util.errors import explain

PREDICTIONS = ("velocity", "noise", "data", "v", "score")

ALPHA_MIN = 1e-5  # below every α of the DDPM tables in use (squared cosine, N = 1000: 5e-5)
SIGMA_MIN = 1e-5


class Estimate(NamedTuple):
    """Estimates of the data and of the noise in x, both (B, *shape), with x = α·data + σ·noise."""

    data: Tensor
    noise: Tensor


@final
class WithVariance(Estimate):
    """Estimates, with what their network says of the variance of a reverse step, `v` (B, *shape), see `variance`."""

    v: Tensor

    def __new__(cls, data: Tensor, noise: Tensor, v: Tensor) -> WithVariance:
        made = super().__new__(cls, data, noise)
        made.v = v
        return made


def alike(made: Estimate, source: Estimate) -> Estimate:
    """Return estimates that were made of `source`, with its variance if it has one."""
    return WithVariance(*made, source.v) if isinstance(source, WithVariance) else made


class Field(Protocol):
    """(x, t, cond) -> Estimate.

    `calls` is the number of network calls per evaluation, `needs_grad` whether it differentiates inside (then it
    cannot run under inference mode), `path` the path whose x_t it understands.
    """

    @property
    def path(self) -> Path: ...
    @property
    def calls(self) -> int: ...
    @property
    def needs_grad(self) -> bool: ...
    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate: ...


class FlowMap(ABC):
    """(x, t, s, cond) -> x_s: carries x from time t to a later time s, or back where it is `reversible`.

    `calls` counts the network calls made so far; `needs_grad` says whether it differentiates inside.
    """

    calls: int = 0
    needs_grad: bool = False
    reversible: bool = False

    @abstractmethod
    def __call__(self, x: Tensor, t: Tensor, s: Tensor, cond: Any = None) -> Tensor:
        """Return x_s of x (B, *shape) at t, where t and s are (B,) or (B, T).

        The times of a single sample may lie on the CPU while x does not: `shapes.expand` and `as_input` take care.
        """


def estimate(prediction: str, output: Tensor, x: Tensor, t: Tensor, path: Path) -> Estimate:
    """Return the (data, noise) that a network's `output` (B, *shape) means at x, t; affine in `output`.

    Solves x = α·data + σ·noise together with the definition in `target`.

    Raises:
        ValueError: an unknown prediction, or an output whose shape is not that of x.
    """
    names.check("prediction", prediction, PREDICTIONS)
    if output.shape != x.shape:
        raise ValueError(explain(f"the output has shape {tuple(output.shape)}", f"that of x, {tuple(x.shape)}"))
    alpha, sigma = expand(path.alpha(t), x), expand(path.sigma(t), x)
    if prediction == "velocity":
        d_alpha, d_sigma = expand(path.d_alpha(t), x), expand(path.d_sigma(t), x)
        det = alpha * d_sigma - sigma * d_alpha  # −α·σ·dλ/dt, never 0
        return Estimate((d_sigma * x - sigma * output) / det, (alpha * output - d_alpha * x) / det)
    if prediction == "v":
        norm = alpha**2 + sigma**2  # 1 on variance-preserving paths
        return Estimate((alpha * x - sigma * output) / norm, (sigma * x + alpha * output) / norm)
    if prediction == "data":
        seen = sigma > SIGMA_MIN
        data = where(seen, output, x / alpha.clamp(min=ALPHA_MIN))
        noise = where(seen, (x - alpha * output) / sigma.clamp(min=SIGMA_MIN), 0)
        return Estimate(data, noise)
    if prediction == "score":
        output = -sigma * output
    seen = alpha > ALPHA_MIN
    data = where(seen, (x - sigma * output) / alpha.clamp(min=ALPHA_MIN), 0)
    return Estimate(data, where(seen, output, x / sigma.clamp(min=SIGMA_MIN)))


def halves(output: Tensor, x: Tensor, learned_variance: bool) -> tuple[Tensor, Tensor | None]:
    """Return what a network's output says in the shape of x, and what of the variance, if that is learned.

    Raises:
        ValueError: a variance is learned, and the output is not twice as large along one axis after the first.
    """
    if not learned_variance:
        return output, None
    for axis in range(1, x.ndim):
        if output.shape == (*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :]):
            first, second = output.chunk(2, axis)
            return first, second
    expected = f"twice the shape of x, {tuple(x.shape)}, along one axis, since the variance is learned"
    raise ValueError(explain(f"the output has shape {tuple(output.shape)}", expected))


def target(prediction: str, data: Tensor, noise: Tensor, t: Tensor, path: Path) -> Tensor:
    """Return what a network should output for `data` and `noise` (B, *shape) at t.

    velocity: α̇·data + σ̇·noise (Lipman et al. 2023) · noise: ε (Ho et al. 2020) · data: x_1 ·
    v: α·noise − σ·data (Salimans & Ho 2022, app. D) · score: −noise/σ (Song et al. 2021), with σ ≥ SIGMA_MIN.
    """
    names.check("prediction", prediction, PREDICTIONS)
    if prediction == "velocity":
        return velocity(Estimate(data, noise), t, path)
    if prediction == "v":
        return expand(path.alpha(t), data) * noise - expand(path.sigma(t), data) * data
    if prediction == "score":
        return score(Estimate(data, noise), t, path)
    return data if prediction == "data" else noise


def velocity(estimate: Estimate, t: Tensor, path: Path) -> Tensor:
    """Return u = α̇·data + σ̇·noise = (α̇/α)·x + (σ²·α̇/α − σ·σ̇)·score.

    The notes' "u = −σ²·score" holds on no path here.
    """
    data, noise = estimate
    return expand(path.d_alpha(t), data) * data + expand(path.d_sigma(t), noise) * noise


def score(estimate: Estimate, t: Tensor, path: Path) -> Tensor:
    """Return ∇ log p_t(x) = −noise/σ, with σ ≥ SIGMA_MIN."""
    return -estimate.noise / expand(path.sigma(t), estimate.noise).clamp(min=SIGMA_MIN)


def data_gain(prediction: str, t: Tensor, path: Path) -> Tensor:
    """Return |∂ data / ∂ output| of `estimate`, in the shape of t: an error e in the output is gain·e in the data.

    With it a weighting defined on the data-space loss is converted once per prediction type. α and σ are kept
    ≥ ALPHA_MIN, SIGMA_MIN, so that it is finite and positive.
    """
    names.check("prediction", prediction, PREDICTIONS)
    alpha, sigma = path.alpha(t).clamp(min=ALPHA_MIN), path.sigma(t).clamp(min=SIGMA_MIN)
    if prediction == "velocity":
        return sigma / (alpha * path.d_sigma(t) - sigma * path.d_alpha(t)).abs()
    if prediction == "noise":
        return sigma / alpha
    if prediction == "score":
        return sigma**2 / alpha
    if prediction == "v":
        return sigma / (alpha**2 + sigma**2)
    return torch.ones_like(t)


@final
@dataclass(frozen=True)
class ModelField:
    """The field of a network.

    Args:
        net: `net(x, t, cond)`.
        path: the path whose x_t the network was trained on.
        prediction: what the network outputs, one of `PREDICTIONS`.
        learned_variance: it has twice the outputs, and says in the second half what the variance is.

    Raises:
        ValueError: an unknown prediction.
    """

    net: Callable[..., Tensor]
    path: Path
    prediction: str
    learned_variance: bool = False
    calls: ClassVar[int] = 1
    needs_grad: ClassVar[bool] = False

    def __post_init__(self) -> None:
        names.check("prediction", self.prediction, PREDICTIONS)

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate:
        output, v = halves(self.net(x, as_input(t, x), cond), x, self.learned_variance)
        made = estimate(self.prediction, output, x, t, self.path)
        return made if v is None else WithVariance(*made, v)
