"""What a network outputs, and the one place that turns it into (data, noise).

The calling contract of this package:

- a network is `net(x, t, cond, r=None)` with x (B, *shape), t (B,) in x's dtype, cond already encoded
  (anything, or None) and r the second time of two-time methods; it returns (B, *shape) and knows nothing of
  paths;
- a field is `(x, t, cond) -> Estimate` (see `Field`); guidance wraps fields into fields;
- an estimate obeys x = α·data + σ·noise, and velocity and score follow from it.

Where α = 0 (t = 0 on the linear and cosine paths) x is pure noise, so a noise or score prediction says
nothing about the data; where σ = 0 (t = 1) x is pure data, so a data prediction says nothing about the
noise. There, that is where α ≤ ALPHA_MIN or σ ≤ SIGMA_MIN, x itself is taken as the one and 0, the mean of
normalised data and of noise, as the other. The invariant holds there too. These two clamps are in
`estimate` and nowhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, final

import torch
from torch import Tensor

from diffpolicy.generative.paths import Path
from diffpolicy.generative.shapes import expand
from diffpolicy.util import names

PREDICTIONS = ("velocity", "noise", "data", "v", "score")

ALPHA_MIN = 1e-5  # below every α of the DDPM tables in use (squared cosine, N = 1000: 5e-5)
SIGMA_MIN = 1e-5


class Estimate(NamedTuple):
    """Estimates of the data and of the noise in x, both (B, *shape), with x = α·data + σ·noise."""

    data: Tensor
    noise: Tensor


class Field(Protocol):
    """(x (B, *shape), t (B,), cond) -> Estimate.

    `calls` is the number of network calls of one evaluation, `needs_grad` whether it differentiates inside
    (then it cannot run under inference mode), `path` the path whose x_t it understands.
    """

    @property
    def path(self) -> Path: ...
    @property
    def calls(self) -> int: ...
    @property
    def needs_grad(self) -> bool: ...
    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate: ...


def estimate(prediction: str, output: Tensor, x: Tensor, t: Tensor, path: Path) -> Estimate:
    """The (data, noise) that a network's `output` (B, *shape) means at x, t; affine in `output`.

    Solves x = α·data + σ·noise together with the definition in `target`. Raises ValueError for an unknown
    type or an output whose shape is not that of x.
    """
    names.check("prediction", prediction, PREDICTIONS)
    if output.shape != x.shape:
        raise ValueError(f"the output has shape {tuple(output.shape)}; expected that of x, {tuple(x.shape)}")
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
        data = torch.where(seen, output, x / alpha.clamp(min=ALPHA_MIN))
        noise = torch.where(seen, (x - alpha * output) / sigma.clamp(min=SIGMA_MIN), 0)
        return Estimate(data, noise)
    if prediction == "score":
        output = -sigma * output
    seen = alpha > ALPHA_MIN
    data = torch.where(seen, (x - sigma * output) / alpha.clamp(min=ALPHA_MIN), 0)
    return Estimate(data, torch.where(seen, output, x / sigma.clamp(min=SIGMA_MIN)))


def target(prediction: str, data: Tensor, noise: Tensor, t: Tensor, path: Path) -> Tensor:
    """What a network of the named type should output for `data` and `noise` (B, *shape) at t (B,).

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
    """u = α̇·data + σ̇·noise = (α̇/α)·x + (σ²·α̇/α − σ·σ̇)·score.

    The notes' "u = −σ²·score" holds on no path here.
    """
    return expand(path.d_alpha(t), estimate.data) * estimate.data + (
        expand(path.d_sigma(t), estimate.noise) * estimate.noise
    )


def score(estimate: Estimate, t: Tensor, path: Path) -> Tensor:
    """∇ log p_t(x) = −noise/σ, with σ ≥ SIGMA_MIN."""
    return -estimate.noise / expand(path.sigma(t), estimate.noise).clamp(min=SIGMA_MIN)


def data_gain(prediction: str, t: Tensor, path: Path) -> Tensor:
    """|∂ data / ∂ output| of `estimate`, (B,): an error e in the output is an error gain·e in the data.

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
    """The field of a network `net(x, t, cond)` that outputs `prediction`; t reaches it in x's dtype.

    Raises ValueError for an unknown prediction type.
    """

    net: Callable[..., Tensor]
    path: Path
    prediction: str
    calls: ClassVar[int] = 1
    needs_grad: ClassVar[bool] = False

    def __post_init__(self) -> None:
        names.check("prediction", self.prediction, PREDICTIONS)

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate:
        return estimate(self.prediction, self.net(x, t.to(x.dtype), cond), x, t, self.path)


@final
@dataclass(frozen=True)
class OnPath:
    """`field`, trained on its own path, as a field on another `path`.

    Two paths differ in how fast log(α/σ) rises and in scale: x on `path` at t is, up to scale, x on the field's path
    at the time of the same log-SNR, and what it estimates of the data is the same (Kingma et al. 2021, section 5).
    Where `path` goes beyond the log-SNR of the field's own path, its end is asked.
    """

    field: Field
    path: Path

    @property
    def calls(self) -> int:
        return self.field.calls

    @property
    def needs_grad(self) -> bool:
        return self.field.needs_grad

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate:
        own = self.field.path
        at = own.time_at_log_snr(self.path.log_snr(t))
        # By the larger of α and σ, which is never 0.
        noisy = self.path.sigma(t) > self.path.alpha(t)
        scale = torch.where(noisy, own.sigma(at) / self.path.sigma(t), own.alpha(at) / self.path.alpha(t))
        return estimate("data", self.field(expand(scale, x) * x, at, cond).data, x, t, self.path)
