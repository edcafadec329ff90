"""Actors meant for one or two network calls a chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from diffpolicy.generative.flow_maps import AverageVelocity
from diffpolicy.generative.sampling import sample, time_grid
from diffpolicy.generative.shapes import Generators, randn
from diffpolicy.policies.actors import NetworkActor, refuse_solver
from diffpolicy.policies.execution import FROM_NOISE, Plan
from diffpolicy.registry import build
from diffpolicy.util.condition import Condition


@final
class FlowMapActor(NetworkActor):
    """A network that jumps from noise to data in any number of steps, one call each; see `generative.flow_maps`.

    Args:
        dim, cond_dim, horizon, net: as of `GenerativeActor`; the network is one of two times.
        path: the probability path's spec.
        objective: what teaches it, {"name": "mean_flow", options}.
        steps: jumps, evenly spaced in time.

    Raises:
        ValueError: unknown names or options that do not fit together.
    """

    takes = frozenset({"noise", "warm_start"})

    def __init__(
        self,
        dim: int,
        cond_dim: int,
        horizon: int,
        net: Mapping[str, Any],
        path: Mapping[str, Any],
        objective: Mapping[str, Any],
        steps: int = 1,
    ) -> None:
        super().__init__(dim, cond_dim, horizon, net, two_times=True)
        self.path = build("path", path)
        self.objective = build("flow_map_objective", objective, path=self.path)
        self._objective = objective["name"]
        self.configure(None, steps, None, None)

    @property
    def sampler(self) -> dict[str, Any]:
        return {"solver": "flow_map", "steps": len(self.times) - 1, "grid": "uniform", "options": {}}

    def configure(
        self, solver: str | None, steps: int | None, grid: str | None, options: Mapping[str, Any] | None
    ) -> None:
        if solver not in (None, "flow_map") or grid not in (None, "uniform") or options:
            raise ValueError(
                f"this policy was trained as a flow map ({self._objective}): its network jumps by itself, in any "
                f"number of steps, so no solver applies; given {solver=}, {grid=}, solver_options={options}. Leave "
                "them out and choose steps"
            )
        if steps is not None:
            self.times = time_grid("uniform", steps, self.path)

    def loss(self, batch: Mapping[str, Tensor], generator: Generators) -> Tensor:
        return self.objective(self.net, {**batch, "cond": Condition(batch["cond"])}, generator)

    def act(self, cond: Tensor, generators: Sequence[torch.Generator], plan: Plan = FROM_NOISE) -> Tensor:
        shape = (len(cond), *self.shape)
        x, times = plan.begin(shape, self.times, self.path, generators, dtype=cond.dtype, device=cond.device)
        flow = AverageVelocity(self.net)
        x = sample(flow, x, times, Condition(cond))
        self.calls = flow.calls
        return x


@final
class TwoStepActor(NetworkActor):
    """The minimal iterative policy (Pan et al. 2025, "Much Ado About Noising"): regression, twice, without a draw.

    The network's answer at x = 0 is the mean of the demonstrations' actions, as in plain cloning; its answer at
    `time` to that first one is the action. The second is taught on actions with noise of 1 − `time` added: it learns
    to bring an action that is slightly off back to where demonstrated actions lie. The two squared errors are
    weighted by 1/time² and 1/(1 − time)². This is the form of the authors' code; in the paper the first answer is
    scaled by `time` before it is given back.

    Args:
        dim, cond_dim, horizon, net: as of `GenerativeActor`.
        time: t* of the second answer, in (0, 1).

    Raises:
        ValueError: a time outside (0, 1), or unknown names.
    """

    def __init__(self, dim: int, cond_dim: int, horizon: int, net: Mapping[str, Any], time: float = 0.9) -> None:
        if not 0 < time < 1:
            raise ValueError(f"time lies between the first answer's 0 and the data's 1; given {time}")
        super().__init__(dim, cond_dim, horizon, net)
        self.time = time

    def configure(
        self, solver: str | None, steps: int | None, grid: str | None, options: Mapping[str, Any] | None
    ) -> None:
        refuse_solver("a two-step policy makes its two calls and draws nothing", solver, steps, grid, options)

    def loss(self, batch: Mapping[str, Tensor], generator: Generators) -> Tensor:
        data, cond = batch["data"], batch["cond"]
        noise = randn(data.shape, generator, dtype=data.dtype, device=data.device)
        x = torch.cat([torch.zeros_like(data), data + (1 - self.time) * noise])
        t = torch.cat([data.new_zeros(len(data)), data.new_full((len(data),), self.time)])
        answers = self.net(x, t, Condition(torch.cat([cond, cond])))
        errors = functional.mse_loss(answers, torch.cat([data, data]), reduction="none").flatten(1).mean(1)
        first, second = errors.chunk(2)
        return first / self.time**2 + second / (1 - self.time) ** 2

    @torch.no_grad()
    def act(self, cond: Tensor, generators: Sequence[torch.Generator], plan: Plan = FROM_NOISE) -> Tensor:
        self.calls = 2
        x = torch.zeros((len(cond), *self.shape), dtype=cond.dtype, device=cond.device)
        for time in (0.0, self.time):
            x = self.net(x, cond.new_full((len(cond),), time), Condition(cond))
        return x
