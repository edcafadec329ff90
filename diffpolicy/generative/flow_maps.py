"""Networks that are flow maps themselves: one call carries x from t to any later s.

Such a network is called with two times, net(x, t, cond, r=s), and its output is the average velocity between them
along the flow, u(x_t, t, s) = (x_s − x_t)/(s − t); at s = t it is the velocity. One step from noise to data is then
one call, and any number of steps is allowed. Two objectives teach it, each with the velocity itself (flow matching)
in one part of a batch and longer spans in the other; what a longer span should give, the network says itself,
without gradient.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd import forward_ad

from diffpolicy.generative.objectives import entry
from diffpolicy.generative.paths import LinearPath, Path
from diffpolicy.generative.predictions import target
from diffpolicy.generative.shapes import Generators, expand, rand, randn

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


@final
@dataclass(frozen=True)
class ShortcutObjective:
    """Shortcut models (Frans et al. 2024, eq. 5): a jump is to go as far as two jumps of half its length.

    A share of the rows takes jumps of length 2^-k, k = 0 … `halvings` − 1 with equal probability, that begin at a
    multiple of their length; all others learn the velocity. The halves of the shortest jumps are Euler steps. The
    halves are asked of the network as it is, where the authors take its moving average.

    Args:
        path: the linear one.
        share: probability with which a row learns a jump.
        halvings: how many lengths of jumps there are.
    """

    path: Path
    share: float = 0.25
    halvings: int = 7

    def __post_init__(self) -> None:
        _check(self.path, self.share)
        if self.halvings < 1:
            raise ValueError(f"halvings counts the lengths of jumps, at least 1; got {self.halvings}")

    def __call__(self, net: Net, batch: Mapping[str, Any], generator: Generators = None) -> Tensor:
        data, cond = entry(batch, "data"), batch.get("cond")
        u = rand((len(data), 3), generator, dtype=torch.float64, device=data.device)
        noise = randn(data.shape, generator, dtype=data.dtype, device=data.device)
        length = 0.5 ** (u[:, 1] * self.halvings).floor()
        jumps = u[:, 0] < self.share
        t = torch.where(jumps, (u[:, 2] / length).floor() * length, u[:, 2])
        s = torch.where(jumps, t + length, t)
        x = self.path.interpolate(data, noise, t)
        wanted = target("velocity", data, noise, t, self.path)
        rows = jumps.nonzero()[:, 0]
        with torch.no_grad():
            half = length / 2
            seen = torch.where(length > 0.5 ** (self.halvings - 1), half, torch.zeros_like(half))
            parts = (x[rows], t[rows], half[rows], seen[rows], None if cond is None else cond[rows])
            wanted[rows] = _two_halves(net, *parts)
        error = net(x, t.to(x.dtype), cond, r=s.to(x.dtype)) - wanted
        return error.square().flatten(1).mean(1)


def _eager(net: Net) -> Net:
    """`net` without what `nn.Module.compile` made of it: a compiled call takes no forward-mode derivative, and rows
    that are as many as chance has it would be compiled again and again."""
    return getattr(net, "forward", net)


def _two_halves(net: Net, x: Tensor, t: Tensor, half: Tensor, seen: Tensor, cond: Any) -> Tensor:
    """The average velocity of two jumps of length `half` from t, for which the network is asked for spans `seen`."""
    net, middle, dtype = _eager(net), t + half, x.dtype
    first = net(x, t.to(dtype), cond, r=(t + seen).to(dtype))
    x = x + expand(half, x) * first
    return (first + net(x, middle.to(dtype), cond, r=(middle + seen).to(dtype))) / 2


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
        _check(self.path, self.share)

    def __call__(self, net: Net, batch: Mapping[str, Any], generator: Generators = None) -> Tensor:
        data, cond = entry(batch, "data"), batch.get("cond")
        u = rand((len(data), 3), generator, dtype=torch.float64, device=data.device)
        noise = randn(data.shape, generator, dtype=data.dtype, device=data.device)
        spans = u[:, 0] < self.share
        t = torch.where(spans, u[:, 1:].amin(1), u[:, 1])
        s = torch.where(spans, u[:, 1:].amax(1), t)
        x, wanted = self.path.interpolate(data, noise, t), data - noise
        rows = spans.nonzero()[:, 0]
        change = _rate(net, x[rows], t[rows], s[rows], None if cond is None else cond[rows], wanted[rows])
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


def _check(path: Path, share: float) -> None:
    if not isinstance(path, LinearPath):
        raise ValueError(f"flow maps are taught on the linear path, got {path!r}; take path.name=linear")
    if not 0 <= share <= 1:
        raise ValueError(f"share is a probability in [0, 1], got {share}")
