"""What a policy is made of inside: a module that is trained on windows and draws action trajectories.

An actor works in normalised units and knows nothing of robots, observations' meaning or files:

    loss(batch, generator)       -> (B,)        batch: "data" (B, T_p, A) and "cond" (B, C)
    act(cond, generators, plan)  -> (B, T_p, A) one generator per row, so that a row does not depend on its batch;
                                                the plan says what is known of the chunks (`execution.Plan`)

With cameras (`vision.VisionActor`) batch and cond are mappings that hold "cond" and the cameras' pictures.

`calls` is the number of network calls the last `act` made.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffpolicy.generative.guidance import Inpaint
from diffpolicy.generative.method import Method
from diffpolicy.generative.shapes import Generators
from diffpolicy.policies.execution import FROM_NOISE, Plan
from diffpolicy.registry import build
from diffpolicy.util.condition import Condition


class Actor(ABC, nn.Module):
    """The contract stated at the top of this file."""

    calls: int = 0
    shape: tuple[int, int]  # (T_p, A) of what it draws
    bound: float = math.inf  # of the normalised actions that it can draw
    takes: frozenset[str] = frozenset()  # what of `execution.Execution` its `act` can follow; it is told of no more

    @abstractmethod
    def networks(self) -> list[nn.Module]:
        """What can be compiled: the modules that `loss` and `act` call."""

    @property
    def sampler(self) -> dict[str, Any]:
        """How actions are drawn, for the record; empty where nothing is drawn."""
        return {}

    @abstractmethod
    def loss(self, batch: Mapping[str, Tensor], generator: Generators) -> Tensor: ...

    @abstractmethod
    def act(
        self, cond: Tensor | Mapping[str, Tensor], generators: Sequence[torch.Generator], plan: Plan = FROM_NOISE
    ) -> Tensor: ...

    @abstractmethod
    def configure(
        self, solver: str | None, steps: int | None, grid: str | None, options: Mapping[str, Any] | None
    ) -> None:
        """Change how actions are drawn, without retraining; None keeps what was set.

        Raises:
            ValueError: what this actor cannot use, naming what it can.
        """

    @final
    @property
    def device(self) -> torch.device:
        """Where its tensors are: weights, or the buffers of one that has no weights."""
        return next(chain(self.parameters(), self.buffers())).device

    @final
    def freeze(self, compile_rows: int | None = None) -> None:
        """Prepare the network for acting, where it knows how to, and compile it for so many rows.

        See `ConditionalUnet1D.freeze`.
        """
        for net in self.networks():
            if hasattr(net, "freeze"):
                net.freeze(compile_rows and (compile_rows, *self.shape))


def refuse_solver(why: str, *settings: object) -> None:
    """Raise ValueError, saying `why`, where any of the settings that `Actor.configure` takes was given."""
    if any(setting is not None for setting in settings):
        raise ValueError(f"{why}: leave solver, steps, grid and solver_options as they are")


class NetworkActor(Actor):
    """An actor with one network of the registry, which may want to know the horizon.

    Args:
        dim, cond_dim, horizon: A, C and T_p.
        net: the network's spec, {"name": ..., options}.
        given: further arguments of the network.
    """

    def __init__(self, dim: int, cond_dim: int, horizon: int, net: Mapping[str, Any], **given: Any) -> None:
        super().__init__()
        self.shape = (horizon, dim)
        self.net = build("net", net, {"horizon": horizon}, dim=dim, cond_dim=cond_dim, **given)

    @final
    def networks(self) -> list[nn.Module]:
        return [self.net]


@final
class GenerativeActor(NetworkActor):
    """Flow matching and diffusion: a network, a path and a prediction type, sampled by any solver.

    Args:
        dim, cond_dim, horizon: A, C and T_p.
        net: the network's spec for the registry, {"name": ..., options}.
        path: the probability path's spec.
        prediction: what the network outputs, see `generative.predictions`.
        times, weighting, solver, steps, grid, solver_options, clip: see `generative.method`; the clip in normalised
            units.

    Raises:
        ValueError: unknown names or options that do not fit together.
    """

    takes = frozenset({"noise", "warm_start", "inpaint"})

    def __init__(
        self,
        dim: int,
        cond_dim: int,
        horizon: int,
        net: Mapping[str, Any],
        path: Mapping[str, Any],
        prediction: str,
        times: str = "uniform",
        weighting: str = "native",
        solver: str = "euler",
        steps: int = 10,
        grid: str = "uniform",
        solver_options: Mapping[str, Any] | None = None,
        clip: float | None = None,
    ) -> None:
        super().__init__(dim, cond_dim, horizon, net)
        drawn = {"solver": solver, "steps": steps, "grid": grid, "solver_options": solver_options, "clip": clip}
        self.method = Method(build("path", path), prediction, times, weighting, **drawn)
        self.bound = math.inf if clip is None else clip

    @property
    def sampler(self) -> dict[str, Any]:
        """The sampler's settings: solver, steps, grid, options."""
        return self.method.sampler

    def configure(
        self, solver: str | None, steps: int | None, grid: str | None, options: Mapping[str, Any] | None
    ) -> None:
        self.method.configure(solver, steps, grid, options)

    def loss(self, batch: Mapping[str, Tensor], generator: Generators) -> Tensor:
        return self.method.loss(self.net, {**batch, "cond": Condition(batch["cond"])}, generator)

    def act(self, cond: Tensor, generators: Sequence[torch.Generator], plan: Plan = FROM_NOISE) -> Tensor:
        method, shape = self.method, (len(cond), *self.shape)
        x, times = plan.begin(
            shape, method.times, method.sampling_path, generators, dtype=cond.dtype, device=cond.device
        )
        hold = None if plan.held is None else functools.partial(Inpaint, known=plan.expected, mask=plan.held)
        x, self.calls = method.draw(method.field(self.net, hold), x, Condition(cond), generators, times=times)
        return x


@final
class RegressionActor(NetworkActor):
    """Behaviour cloning by least squares, for comparison: the network's one answer is the demonstrations' mean.

    It is the network of `GenerativeActor`, asked once, at x = 0 and t = 0. Where demonstrations part, their mean
    goes between them.

    Args:
        dim, cond_dim, horizon, net: as of `GenerativeActor`.
    """

    def __init__(self, dim: int, cond_dim: int, horizon: int, net: Mapping[str, Any]) -> None:
        super().__init__(dim, cond_dim, horizon, net)

    def configure(
        self, solver: str | None, steps: int | None, grid: str | None, options: Mapping[str, Any] | None
    ) -> None:
        refuse_solver("regression draws nothing", solver, steps, grid, options)

    def loss(self, batch: Mapping[str, Tensor], generator: Generators) -> Tensor:
        error = functional.mse_loss(self._mean(batch["cond"]), batch["data"], reduction="none")
        return error.flatten(1).mean(1)

    @torch.no_grad()
    def act(self, cond: Tensor, generators: Sequence[torch.Generator], plan: Plan = FROM_NOISE) -> Tensor:
        self.calls = 1
        return self._mean(cond)

    def _mean(self, cond: Tensor) -> Tensor:
        x = torch.zeros((len(cond), *self.shape), dtype=cond.dtype, device=cond.device)
        return self.net(x, torch.zeros(len(cond), dtype=cond.dtype, device=cond.device), Condition(cond))
