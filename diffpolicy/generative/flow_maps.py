"""Networks that are flow maps themselves: one call carries x from t to any later s.

Such a network is called with two times, net(x, t, cond, r=s), and its output is the average velocity between them
along the flow, u(x_t, t, s) = (x_s − x_t)/(s − t); at s = t it is the velocity. One step from noise to data is then
one call, and any number of steps is allowed. It is taught the velocity itself (flow matching) in one part of a batch
and longer spans in the other; what a longer span should give, the network says itself, without gradient.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from diffpolicy.generative.objectives import drop_condition, entry
from diffpolicy.generative.paths import LinearPath, Path
from diffpolicy.generative.predictions import FlowMap
from diffpolicy.generative.sampling import sample, time_grid
from diffpolicy.generative.shapes import Generators, as_input, expand, uniform
from diffpolicy.generative.starts import draw_start
from diffpolicy.util.condition import select
from diffpolicy.util.device import precise_dtype
from diffpolicy.util.errors import require

Net = Callable[..., Tensor]

_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d)
_ADAPTIVE_FLOOR = 1e-3  # c of Geng et al. 2025, section 4.3


@final
class AverageVelocity(FlowMap):
    """The flow map x_s = x + (s − t)·net(x, t, cond, r=s), for `sample`."""

    def __init__(self, net: Net) -> None:
        self._net = net

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, cond: Any = None) -> Tensor:
        self.calls += 1
        return x + expand(s - t, x) * self._net(x, as_input(t, x), cond, r=as_input(s, x))


def _eager(net: Net) -> Net:
    """Return `net` without what `nn.Module.compile` made of it.

    A compiled call takes no forward-mode derivative, and the number of samples here, which is random, would be
    compiled again and again.
    """
    return net.forward if isinstance(net, nn.Module) else net


@contextmanager
def _norms_in_float32(net: Net) -> Iterator[None]:
    """Let norms that answer in half precision answer in float32, in which autocast leaves their derivative.

    The next layer refuses a mixture of the two.
    """

    def single(module: nn.Module, inputs: Any, out: Tensor) -> Tensor:
        return out.float() if out.dtype in (torch.bfloat16, torch.float16) else out

    norms = [m for m in net.modules() if isinstance(m, _NORMS)] if isinstance(net, nn.Module) else []
    hooks = [norm.register_forward_hook(single) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@final
@dataclass(frozen=True)
class MeanFlowObjective:
    """MeanFlow (Geng et al. 2025, eq. 6), in this project's direction of time: u = v + (s − t)·du/dt.

    It follows from differentiating (s − t)·u(x_t, t, s) = x_s − x_t along the flow with s fixed; du/dt = v·∂u/∂x +
    ∂u/∂t is one forward-mode derivative, and v is the velocity data − noise of the sample.

    Args:
        path: the linear one.
        span_fraction: probability with which a sample has s > t, both then drawn uniformly and sorted.
        power: p of the weight 1/(e + 1e-3)^p, constant in the gradient (section 4.3 there), where e is the mean of
            the squared errors (theirs is the sum). With p = 1 the value of the loss says little: it is e/(e + 1e-3).
        guidance: w of the velocity that is taught, w·(data − noise) + (1 − w)·net(x, t, ∅), so that one call is
            guided (section 4.2 there); 1 is none.
        condition_dropout: probability with which a sample's condition is replaced by that of `net.null(cond)`; such
            samples are taught the velocity without guidance.

    Raises:
        ValueError: another path, a probability outside [0, 1], or guidance without dropout; when called, a network
            without forward-mode derivative.
    """

    path: Path
    span_fraction: float = 0.25
    power: float = 1.0
    guidance: float = 1.0
    condition_dropout: float = 0.0

    def __post_init__(self) -> None:
        linear = isinstance(self.path, LinearPath)
        require(linear, f"a flow map on {self.path!r}", "the linear path", "take path.name=linear")
        for name in ("span_fraction", "condition_dropout"):
            require(0 <= getattr(self, name) <= 1, f"{name}={getattr(self, name)}", "a probability in [0, 1]")
        known = self.guidance == 1 or self.condition_dropout > 0
        require(
            known, f"guidance={self.guidance:g} without dropout", cure="take condition_dropout=0.1, or guidance=1"
        )

    def __call__(self, net: Net, batch: Mapping[str, Any], generator: Generators = None) -> Tensor:
        data, cond = entry(batch, "data"), batch.get("cond")
        u = uniform((len(data), 3), generator, data.device)
        noise = draw_start(batch, data, generator)
        spans = u[:, 0] < self.span_fraction
        t = torch.where(spans, u[:, 1:].amin(1), u[:, 1])
        s = torch.where(spans, u[:, 1:].amax(1), t)
        t, s = (time.to(data.device, precise_dtype(data.device)) for time in (t, s))
        x, wanted = self.path.interpolate(data, noise, t), data - noise
        if self.condition_dropout:
            asked = cond
            cond, dropped = drop_condition(net, asked, self.condition_dropout, data, generator)
            if self.guidance != 1:
                wanted = self._guided(net, x, t, net.null(asked), dropped, wanted)
        some = spans.nonzero()[:, 0].to(data.device)
        if len(some):
            change = _rate(net, x[some], t[some], s[some], select(cond, some), wanted[some])
            wanted[some] += expand(s[some] - t[some], change) * change
        error = (net(x, as_input(t, x), cond, r=as_input(s, x)) - wanted).square().flatten(1).mean(1)
        return error / (error.detach() + _ADAPTIVE_FLOOR) ** self.power

    @torch.no_grad()
    def _guided(self, net: Net, x: Tensor, t: Tensor, null: Any, dropped: Tensor, velocity: Tensor) -> Tensor:
        """Return the velocities to be taught, (B, *shape): guided, but for samples without their condition."""
        free = net(x, as_input(t, x), null, r=as_input(t, x))
        return torch.where(expand(dropped, x), velocity, self.guidance * velocity + (1 - self.guidance) * free)


@torch.no_grad()
def _rate(net: Net, x: Tensor, t: Tensor, s: Tensor, cond: Any, velocity: Tensor) -> Tensor:
    """Return du/dt along the flow, s fixed."""
    now = as_input(t, x)
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(x, velocity)
        now = forward_ad.make_dual(now, torch.ones_like(now))
        with _norms_in_float32(net):
            change = forward_ad.unpack_dual(_eager(net)(moving, now, cond, r=as_input(s, x))).tangent
    require(change is not None, f"{type(net).__name__} has no forward-mode derivative, which MeanFlow needs")
    return change


@final
class FlowMapProcess:
    """A network that is a flow map as one object: what it learns, and in how many steps it is sampled.

    Args:
        path: the linear one.
        span_fraction: see `MeanFlowObjective`.
        power: see `MeanFlowObjective`.
        steps: of sampling, evenly spaced in time, one call each.
        guidance: see `MeanFlowObjective`.
        condition_dropout: see `MeanFlowObjective`.

    Raises:
        ValueError: as `MeanFlowObjective` and `time_grid`.
    """

    solver = "flow_map"  # the network itself, for the record

    def __init__(
        self,
        path: Path,
        span_fraction: float = 0.25,
        power: float = 1.0,
        steps: int = 1,
        guidance: float = 1.0,
        condition_dropout: float = 0.0,
    ) -> None:
        self.path = self.sampling_path = path
        self.objective = MeanFlowObjective(path, span_fraction, power, guidance, condition_dropout)
        self.times = time_grid("uniform", steps, path)

    @property
    def sampler(self) -> dict[str, Any]:
        """The sampler's settings: solver, steps, grid, options."""
        return {"solver": self.solver, "steps": len(self.times) - 1, "grid": "uniform", "options": {}}

    def configure(
        self,
        solver: str | None = None,
        steps: int | None = None,
        grid: str | None = None,
        options: Mapping[str, Any] | None = None,
        path: Path | None = None,
    ) -> None:
        """Change the number of steps without retraining; None keeps it.

        Raises:
            ValueError: another solver, grid or path, or options: it has its own.
        """
        fits = solver in (None, self.solver) and grid in (None, "uniform") and not options
        given = f"solver={solver}, grid={grid}, options={options} for mean_flow"
        require(fits and path in (None, self.path), given, "steps alone, since its network jumps by itself")
        if steps is not None:
            self.times = time_grid("uniform", steps, self.path)

    def loss(self, net: Net, batch: Mapping[str, Any], generator: Generators) -> Tensor:
        """Return the loss (B,) of a batch, see `MeanFlowObjective`."""
        return self.objective(net, batch, generator)

    def draw(self, net: Net, x: Tensor, cond: Any, trajectory: bool = False) -> tuple[Tensor, int]:
        """Return samples from noise x (B, *shape), and the number of network calls; see `sample`."""
        flow = AverageVelocity(net)
        return sample(flow, x, self.times, cond, trajectory), flow.calls
