"""Dormand–Prince, which chooses its own steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from diffpolicy.generative.shapes import expand, where
from diffpolicy.generative.solvers.base import BoundSolver, ExplicitRungeKutta, weighted_sum
from diffpolicy.util.errors import explain, require


@final
@dataclass(frozen=True)
class DormandPrince(ExplicitRungeKutta):
    """The adaptive 5(4) pair (Dormand & Prince 1980; Hairer, Nørsett & Wanner, table II.5.2 and eq. II.4.13).

    Each sample has its own time and step length and is judged by its own error, so its result does not depend on the
    others. `calls_per_step` is per attempted inner step; a step from t to s starts with one call more.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance: the error of an inner step, as root mean square over a sample, is kept below
            atol + rtol·max(|x|, |x'|).
        max_steps: attempted inner steps allowed between t and s.

    Raises:
        ValueError: unless all are positive; when run, for times per step (B, T).
        RuntimeError: when run, after max_steps.
        FloatingPointError: when run, for a velocity that is not finite.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 1000
    order: ClassVar[int] = 5
    calls_per_step: ClassVar[int] = 6
    adaptive: ClassVar[bool] = True
    a: ClassVar = (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),  # also the weights of the result
    )
    c: ClassVar = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
    # weights of the fifth-order result less those of the fourth-order one
    error: ClassVar = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

    def __post_init__(self) -> None:
        given = f"rtol={self.rtol}, atol={self.atol}, max_steps={self.max_steps}"
        require(self.rtol > 0 and self.atol > 0 and self.max_steps > 0, given, "positive numbers")

    def step(self, flow: BoundSolver, x: Tensor, t: Tensor, s: Tensor, cond: Any) -> Tensor:
        require(t.ndim == 1, f"dopri5 with times {tuple(t.shape)}", "one time per sample, (B,)", "take solver=rk4")

        def rate(x: Tensor, t: Tensor) -> Tensor:
            return flow.velocity(x, t, cond)

        stop = torch.where(flow.path.sigma(s) == 0, t.clamp(min=flow.path.last_time), s)
        now, h, first, attempts = t, (stop - t) / 10, None, 0
        while bool((active := now < stop).any()):
            if attempts == self.max_steps:
                raise RuntimeError(
                    explain(f"samples {_where(active)} are not done", cure=f"raise max_steps of {self}")
                )
            attempts += 1
            h = torch.minimum(h, stop - now)  # 0 in finished samples
            if first is None:
                first = rate(x, now)
            slopes = self.slopes(rate, x, now, h, first)
            new = x + expand(h, x) * weighted_sum(*zip(self.a[-1], slopes[:-1], strict=True))
            norm = self._error_norm(x, new, h, slopes)
            accept = active & (norm <= 1)
            first = where(expand(accept, x), slopes[-1], first)
            x = where(expand(accept, x), new, x)
            now = torch.where(accept, torch.where(h >= stop - now, stop, now + h), now)
            h = h * (0.9 * norm.to(h.dtype) ** -0.2).clamp(0.2, 5.0)
        return flow.finish(x, stop, s, cond)

    def _error_norm(self, x: Tensor, new: Tensor, h: Tensor, slopes: list[Tensor]) -> Tensor:
        """Return each sample's error in units of what is allowed, (B,)."""
        error = expand(h, x) * weighted_sum(*zip(self.error, slopes, strict=True))
        scale = self.atol + self.rtol * torch.maximum(x.abs(), new.abs())
        norm = (error / scale).square().flatten(1).mean(1).sqrt().to(h.device)
        finite = norm.isfinite()
        if not bool(finite.all()):
            raise FloatingPointError(f"dopri5 met a velocity that is not finite in samples {_where(~finite)}")
        return norm


def _where(mask: Tensor) -> list[int]:
    return mask.nonzero().flatten().tolist()
