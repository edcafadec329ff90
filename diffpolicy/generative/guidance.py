"""Guidance and constraints: wrappers field -> field, to be nested in any order.

Each keeps the invariant x = α·data + σ·noise, and a learned variance, that of the conditional field; `OnPath` drops
it, since it belongs to the steps of the field's own path. Clip outside of guidance, `ClipData(ClassifierFree(…))`, so
that what guidance overshoots is clipped too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from diffpolicy.generative.paths import Path
from diffpolicy.generative.predictions import ALPHA_MIN, Estimate, Field, alike, estimate
from diffpolicy.generative.shapes import expand, where
from diffpolicy.util.device import precise_dtype
from diffpolicy.util.errors import explain, require


class Wrapper(ABC):
    """A field around `field`: evaluates it `evaluations` times, and may differentiate (`differentiates`)."""

    field: Field
    evaluations: ClassVar[int] = 1
    differentiates: ClassVar[bool] = False

    @property
    def path(self) -> Path:
        return self.field.path

    @final
    @property
    def calls(self) -> int:
        return self.evaluations * self.field.calls

    @final
    @property
    def needs_grad(self) -> bool:
        return self.differentiates or self.field.needs_grad

    @abstractmethod
    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate:
        """Return the estimate at x (B, *shape), t (B,) or (B, T)."""


@final
@dataclass(frozen=True)
class ClassifierFree(Wrapper):
    """ũ = (1 − w)·u(x|∅) + w·u(x|y) (Ho & Salimans 2022, eq. 6, with w there = w − 1 here).

    w = 1 is plain conditioning, w = 0 none. The same for every prediction type, since all are affine in the output.

    Args:
        field: the conditional field.
        scale: w.
        null: cond -> the unconditional cond, for example `net.null`.
    """

    field: Field
    scale: float
    null: Callable[[Any], Any]
    evaluations: ClassVar[int] = 2

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate:
        free, given = self.field(x, t, self.null(cond)), self.field(x, t, cond)
        mixed = ((1 - self.scale) * f + self.scale * g for f, g in zip(free, given, strict=True))
        return alike(Estimate(*mixed), given)


@final
@dataclass(frozen=True)
class Guided(Wrapper):
    """ũ = u(x|y) + Σᵢ (wᵢ − 1)·(u(x|y) − u(x|y without part i)): guidance with a scale for each part of a condition.

    Of one part it is `ClassifierFree`: w = 1 is plain conditioning, w = 0 none, w < 0 leads away. Parts are taken to
    be independent given x, as for compositions of concepts (Liu et al. 2022, equation 11).

    Args:
        field: the conditional field.
        without: for each part, its scale w and the condition without it.
    """

    field: Field
    without: Sequence[tuple[float, Any]]

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """One for the whole condition, and one without each part."""
        return 1 + len(self.without)

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate:
        given = self.field(x, t, cond)
        data, noise = given
        for scale, other in self.without:
            free = self.field(x, t, other)
            data, noise = (
                mixed + (scale - 1) * (ours - theirs)
                for mixed, ours, theirs in zip((data, noise), given, free, strict=True)
            )
        return alike(Estimate(data, noise), given)


@final
@dataclass(frozen=True)
class ClassifierGuidance(Wrapper):
    """score + w·∇_x log p(y|x_t) (Dhariwal & Nichol 2021, eq. 14): noise − σ·w·∇ and data + (σ²/α)·w·∇.

    One line of the notes' derivation prints p(y|x) as p(x|y). Where α ≤ ALPHA_MIN, x says nothing about y, (σ²/α)·∇
    is 0/0, and the field is left unguided. The sampling loop sees `needs_grad` and leaves inference mode.

    Args:
        field: the field to guide.
        log_prob: (x (B, *shape), t (B,), cond) -> log p(y|x_t), (B,), each sample from its own x.
        scale: w.

    Raises:
        ValueError: when called, log_prob that does not return (B,).
        RuntimeError: when called under inference mode.
    """

    field: Field
    log_prob: Callable[[Tensor, Tensor, Any], Tensor]
    scale: float
    differentiates: ClassVar[bool] = True

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate:
        if torch.is_inference_mode_enabled():
            cure = "run it under torch.no_grad()"
            raise RuntimeError(explain("classifier guidance differentiates, which inference mode forbids", cure=cure))
        data, noise = free = self.field(x, t, cond)
        differentiable = torch.is_grad_enabled() and x.requires_grad  # someone wants our own derivative
        with torch.enable_grad():
            inner = x if differentiable else x.detach().requires_grad_()
            value = self.log_prob(inner, t, cond)
            if value.shape != x.shape[:1]:
                given = f"log_prob returned shape {tuple(value.shape)}"
                raise ValueError(explain(given, f"({x.shape[0]},), one value per sample"))
            (grad,) = torch.autograd.grad(value.sum(), inner, create_graph=differentiable)
        alpha, sigma = expand(self.path.alpha(t), x), expand(self.path.sigma(t), x)
        push = where(alpha > ALPHA_MIN, self.scale * sigma * grad, 0)
        return alike(Estimate(data + sigma / alpha.clamp(min=ALPHA_MIN) * push, noise - push), free)


@final
@dataclass(frozen=True)
class ClipData(Wrapper):
    """The data estimate clipped to [low, high], the noise recomputed.

    The published DDPM policy clips to [−1, 1]. Noise predictions on the squared-cosine table need it: its first α,
    5e-4, magnifies their errors 2000-fold in the data. At σ = 0, where no solver evaluates a field, nothing is
    clipped: x is the data there.

    Args:
        field: the field whose data estimate to clip.
        low: lower bound.
        high: upper bound.

    Raises:
        ValueError: unless low < high.
    """

    field: Field
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        require(self.low < self.high, f"low={self.low}, high={self.high}", "low < high")

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate:
        free = self.field(x, t, cond)
        return alike(estimate("data", free.data.clamp(self.low, self.high), x, t, self.path), free)


@final
@dataclass(frozen=True)
class Changed(Wrapper):
    """The data estimate changed by a function of it, the noise recomputed: for what samples should be like.

    Args:
        field: the field whose data estimate to change.
        change: (data (B, *shape), t (B,)) -> data; may differentiate.
        last: time from which on t = 1 is told, that of the last estimate.
    """

    field: Field
    change: Callable[[Tensor, Tensor], Tensor]
    last: float = 1.0
    differentiates: ClassVar[bool] = True

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate:
        free = self.field(x, t, cond)
        changed = self.change(free.data, torch.where(t >= self.last, 1.0, t))
        return alike(estimate("data", changed, x, t, self.path), free)


@final
@dataclass(frozen=True)
class Inpaint(Wrapper):
    """On known entries data = known and noise = (x − α·known)/σ; the others are the field's.

    Sampling ends exactly on `known`, since the last step ends with the data estimate.

    Args:
        field: the field to constrain.
        known: (B, *shape) or what broadcasts to it; read where the mask is true.
        mask: boolean, in the shape of `known`.

    Raises:
        TypeError: a mask that is not boolean.
    """

    field: Field
    known: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        boolean = self.mask.dtype == torch.bool
        require(boolean, f"a mask of {self.mask.dtype}", "boolean, true where the entry is known", error=TypeError)

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate:
        free = self.field(x, t, cond)
        fixed = estimate("data", self.known.to(x.dtype).expand_as(x), x, t, self.path)
        return alike(Estimate(*(torch.where(self.mask, k, f) for k, f in zip(fixed, free, strict=True))), free)


@final
@dataclass(frozen=True)
class Prefix(Wrapper):
    """`Inpaint` of a field that was taught what known steps are: they enter clean, at a time of their own, 1.

    Training-time action conditioning for real-time chunking (Black et al. 2025b); see `DenoisingObjective.prefixed`.

    Args:
        field: of a network that takes a time per step.
        known: (B, T, ...), or what broadcasts to it.
        mask: (B, T), true where a step is known.
    """

    field: Field
    known: Tensor
    mask: Tensor

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate:
        mask, known = expand(self.mask, x), self.known.to(x.dtype).expand_as(x)
        fixed = estimate("data", known, x, t, self.path)
        own = torch.where(self.mask, 1.0, t.to(x.device, precise_dtype(x.device))[:, None])
        free = self.field(torch.where(mask, known, x), own, cond)
        return alike(Estimate(*(torch.where(mask, k, f) for k, f in zip(fixed, free, strict=True))), free)


@final
@dataclass(frozen=True)
class SoftInpaint(Wrapper):
    """Draws the data estimate towards `known`: data + σ·min(bound, (α² + σ²)/(α·σ))·Jᵀ·W·(known − data).

    This is pseudoinverse guidance (Song et al. 2023) as real-time chunking has it (Black et al. 2025, equations 2 to
    4), for any path: on the linear one it adds min(β, (1 − t)/(t·r²))·Jᵀ·W·(known − data) to the velocity, with
    r² = (1 − t)²/(t² + (1 − t)²).

    Args:
        field: the field to guide.
        known: (B, *shape) or what broadcasts to it.
        weights: W >= 0, what broadcasts to x; 0 where nothing is known.
        bound: β.
        jacobian: take J = ∂data/∂x, by a vector-Jacobian product; else the identity.

    Raises:
        RuntimeError: when called under inference mode with the Jacobian.
    """

    field: Field
    known: Tensor
    weights: Tensor
    bound: float = 5.0
    jacobian: bool = True

    @property
    def differentiates(self) -> bool:  # type: ignore[override]
        return self.jacobian

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate:
        known, weights = self.known.to(x.dtype), self.weights.to(x.dtype)
        if self.jacobian:
            if torch.is_inference_mode_enabled():
                cure = "run it under torch.no_grad(), or take jacobian=False"
                raise RuntimeError(explain("soft inpainting differentiates, which inference mode forbids", cure=cure))
            with torch.enable_grad():
                inner = x.detach().requires_grad_()
                data, _ = free = self.field(inner, t, cond)
                (push,) = torch.autograd.grad(data, inner, (weights * (known - data)).detach())
            data = data.detach()
        else:
            data, _ = free = self.field(x, t, cond)
            push = weights * (known - data)
        alpha, sigma = expand(self.path.alpha(t), x), expand(self.path.sigma(t), x)
        ratio = (alpha**2 + sigma**2) / (alpha * sigma).clamp(min=ALPHA_MIN)
        return alike(estimate("data", data + sigma * ratio.clamp(max=self.bound) * push, x, t, self.path), free)


@final
@dataclass(frozen=True)
class OnPath(Wrapper):
    """`field`, trained on its own path, as a field on another path.

    Two paths differ in how fast log(α/σ) rises and in scale: x on `other` at t is, up to scale, x on the field's path
    at the time of the same log-SNR, and what it estimates of the data is the same (Kingma et al. 2021, section 5).
    Where `other` goes beyond the log-SNR of the field's own path, its end is evaluated.

    Args:
        field: the trained field.
        other: the path to sample on.
    """

    field: Field
    other: Path

    @property
    def path(self) -> Path:
        return self.other

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate:
        own = self.field.path
        at = own.time_at_log_snr(self.path.log_snr(t))
        # By the larger of α and σ, which is never 0.
        noisy = self.path.sigma(t) > self.path.alpha(t)
        scale = torch.where(noisy, own.sigma(at) / self.path.sigma(t), own.alpha(at) / self.path.alpha(t))
        return estimate("data", self.field(expand(scale, x) * x, at, cond).data, x, t, self.path)
