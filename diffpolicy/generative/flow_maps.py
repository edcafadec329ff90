"""Networks that are flow maps themselves: one call carries x from t to any later s.

Such a network is called with two times, net(x, t, cond, r=s), and its output is the average velocity between them
along the flow, u(x_t, t, s) = (x_s − x_t)/(s − t); at s = t it is the velocity. One step from noise to data is then
one call, and any number of steps is allowed. It is taught the velocity itself (flow matching) in one part of a batch
and longer spans in the other; what a longer span should give, the network says itself, without gradient.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd import forward_ad

from diffpolicy.generative.objectives import entry
from diffpolicy.generative.paths import LinearPath, Path
from diffpolicy.generative.shapes import Generators, expand, rand, randn
from diffpolicy.util.condition import select

Net = Callable[..., Tensor]

_ADAPTIVE_FLOOR = 1e-3  # c of Geng et al. 2025, section 4.3


@final
class AverageVelocity:
    """The flow map x_s = x + (s − t)·net(x, t, cond, r=s), for `sample`."""

    needs_grad = False

    def __init__(self, net: Net) -> None:
        self._net = net
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, cond: Any = None) -> Tensor:
        """x_s of x (B, *shape) at t (B,) for s (B,) > t."""
        self.calls += 1
        return x + expand(s - t, x) * self._net(x, t.to(x.dtype), cond, r=s.to(x.dtype))


def _eager(net: Net) -> Net:
    """`net` without what `nn.Module.compile` made of it: a compiled call takes no forward-mode derivative, and rows
    that are as many as chance has it would be compiled again and again."""
    return getattr(net, "forward", net)


@final
@dataclass(frozen=True)
class MeanFlowObjective:
    """MeanFlow (Geng et al. 2025, eq. 6), in this project's direction of time: u = v + (s − t)·du/dt.

    It follows from differentiating (s − t)·u(x_t, t, s) = x_s − x_t along the flow with s fixed; du/dt = v·∂u/∂x +
    ∂u/∂t is one forward-mode derivative, and v is the velocity data − noise of the sample.

    Args:
        path: the linear one.
        share: probability with which a row has s > t, both then drawn uniformly and sorted.
        power: p of the weight 1/(e + 1e-3)^p, constant in the gradient (section 4.3 there), where e is the mean of
            the squared errors (theirs is the sum). With p = 1 the value of the loss says little: it is e/(e + 1e-3).
    """

    path: Path
    share: float = 0.25
    power: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.path, LinearPath):
            raise ValueError(f"flow maps are taught on the linear path, got {self.path!r}; take path.name=linear")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is a probability in [0, 1], got {self.share}")

    def __call__(self, net: Net, batch: Mapping[str, Any], generator: Generators = None) -> Tensor:
        data, cond = entry(batch, "data"), batch.get("cond")
        u = rand((len(data), 3), generator, dtype=torch.float64, device=data.device)
        noise = randn(data.shape, generator, dtype=data.dtype, device=data.device)
        spans = u[:, 0] < self.share
        t = torch.where(spans, u[:, 1:].amin(1), u[:, 1])
        s = torch.where(spans, u[:, 1:].amax(1), t)
        x, wanted = self.path.interpolate(data, noise, t), data - noise
        rows = spans.nonzero()[:, 0]
        if len(rows):
            change = _rate(net, x[rows], t[rows], s[rows], select(cond, rows), wanted[rows])
            wanted[rows] += expand(s[rows] - t[rows], change) * change
        error = (net(x, t.to(x.dtype), cond, r=s.to(x.dtype)) - wanted).square().flatten(1).mean(1)
        return error / (error.detach() + _ADAPTIVE_FLOOR) ** self.power


@torch.no_grad()
def _rate(net: Net, x: Tensor, t: Tensor, s: Tensor, cond: Any, velocity: Tensor) -> Tensor:
    """du/dt along the flow, s fixed."""
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(x, velocity)
        now = forward_ad.make_dual(t.to(x.dtype), torch.ones_like(t, dtype=x.dtype))
        change = forward_ad.unpack_dual(_eager(net)(moving, now, cond, r=s.to(x.dtype))).tangent
    if change is None:
        raise ValueError(f"{type(net).__name__} takes no forward-mode derivative, which MeanFlow needs")
    return change
