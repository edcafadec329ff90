"""Samplers on a network that has learned, whose error near the data exact fields do not show."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from diffpolicy.generative import DenoisingObjective, LinearPath, ModelField, make_solver
from diffpolicy.generative.sampling import sample, time_grid
from diffpolicy.nets import MLP

PATH = LinearPath()


@pytest.fixture(scope="module")
def field() -> ModelField:
    torch.manual_seed(0)
    net: nn.Module = MLP(dim=2)
    loss, optimizer = DenoisingObjective(PATH, "velocity"), torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(400):
        angle, side = torch.rand(256, 1) * torch.pi, torch.randint(0, 2, (256, 1)) * 2 - 1
        moons = torch.cat([side * angle.cos() + side / 2, side * angle.sin() - side / 4], dim=1)
        optimizer.zero_grad()
        loss(net, {"data": moons}).mean().backward()
        optimizer.step()
    return ModelField(net.requires_grad_(False), PATH, "velocity")


def _samples(field: ModelField, solver: str, steps: int, grid: str = "uniform") -> tuple[Tensor, int]:
    noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    flow = make_solver(solver).bind(field, PATH)
    return sample(flow, noise, time_grid(grid, steps, PATH)), flow.calls


@pytest.fixture(scope="module")
def fine(field: ModelField) -> Tensor:
    return _samples(field, "euler", 500)[0]


@pytest.mark.parametrize(
    ("solver", "steps"), [("heun", 2), ("heun", 3), ("heun", 5), ("heun", 10), ("rk4", 2), ("rk4", 3), ("rk4", 5)]
)
def test_ends_no_farther_from_the_fine_solution_than_euler_in_as_many_calls(
    field: ModelField, fine: Tensor, solver: str, steps: int
) -> None:
    grid = make_solver(solver).grid
    assert grid is not None
    ours, calls = _samples(field, solver, steps, grid)
    euler, as_many = _samples(field, "euler", calls)
    assert as_many == calls
    assert (ours - fine).square().mean() <= (euler - fine).square().mean()


@pytest.mark.parametrize(("solver", "steps"), [("heun", 3), ("heun", 5), ("rk4", 3), ("rk4", 5)])
def test_the_grid_of_a_solver_serves_it_better_than_even_steps(
    field: ModelField, fine: Tensor, solver: str, steps: int
) -> None:
    own, even = (_samples(field, solver, steps, grid)[0] for grid in (make_solver(solver).grid or "", "uniform"))
    assert (own - fine).square().mean() <= (even - fine).square().mean()
