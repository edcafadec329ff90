import itertools

import pytest
import torch

from diffpolicy.generative import ModelField, generate, make_solver, sample, time_grid
from diffpolicy.generative.distances import sliced_wasserstein
from diffpolicy.generative.objectives import DenoisingObjective
from diffpolicy.generative.paths import CosinePath, LinearPath
from diffpolicy.generative.starts import draw_start, transported


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(n: int, seed: int, d: int = 2) -> torch.Tensor:
    return torch.randn(n, d, generator=gen(seed), dtype=torch.float64)


def test_optimal_pairs_are_the_best_of_all_permutations():
    start, data = normal(6, 0, 3), normal(6, 1, 3)

    def cost(order):
        return float((start[list(order)] - data).square().sum())

    best = min(itertools.permutations(range(6)), key=cost)
    assert tuple(transported(start, data).tolist()) == best


def test_optimal_pairs_on_a_line_are_in_order():
    start, data = normal(200, 0, 1), 3 * normal(200, 1, 1) + 5
    order = transported(start, data)
    assert torch.equal(start[order].argsort(0), data.argsort(0))


def test_a_batch_brings_its_start():
    seen = {}

    def net(x, t, cond):
        seen["x"], seen["t"] = x, t
        return torch.zeros_like(x)

    data, start = normal(5, 0), 10 + normal(5, 1)
    loss = DenoisingObjective(LinearPath(), "velocity")(net, {"data": data, "start": start}, gen())
    t = seen["t"][:, None]
    torch.testing.assert_close(seen["x"], t * data + (1 - t) * start)
    torch.testing.assert_close(loss, (data - start).square().mean(1))


def test_what_a_start_cannot_be():
    data = normal(4, 0)
    with pytest.raises(ValueError, match=r"batch\['start'\] of shape \(3, 2\).*\(4, 2\)"):
        draw_start({"start": normal(3, 1)}, data, gen())
    with pytest.raises(ValueError, match="take 'independent'"):
        draw_start({"cond": torch.zeros(4)}, data, gen(), "optimal_transport")
    with pytest.raises(ValueError, match="optimal_transport"):
        DenoisingObjective(LinearPath(), "velocity", coupling="optimal")
    with pytest.raises(ValueError, match=r"start of shape \(4, 2\)"):
        field = ModelField(lambda x, t, cond: x, LinearPath(), "velocity")
        generate(field, LinearPath(), make_solver("euler"), (5, 2), 3, start=data)


class Between:
    """The exact velocity between N(m, a²) and N(n, b²), coupled independently or by the monotone map."""

    def __init__(self, path, optimal: bool):
        self.path, self.optimal = path, optimal
        self.m, self.a, self.n, self.b = -4.0, 0.5, 3.0, 2.0

    def __call__(self, x, t, cond=None):
        alpha, sigma = self.path.alpha(t)[:, None], self.path.sigma(t)[:, None]
        d_alpha, d_sigma = self.path.d_alpha(t)[:, None], self.path.d_sigma(t)[:, None]
        mean = alpha * self.n + sigma * self.m
        if self.optimal:  # data = n + b·z and start = m + a·z of the same z
            z = (x - mean) / (alpha * self.b + sigma * self.a)
            return d_alpha * (self.n + self.b * z) + d_sigma * (self.m + self.a * z)
        scaled = (x - mean) / ((alpha * self.b) ** 2 + (sigma * self.a) ** 2)
        data, start = self.n + alpha * self.b**2 * scaled, self.m + sigma * self.a**2 * scaled
        return d_alpha * data + d_sigma * start


@pytest.mark.parametrize("path", [LinearPath(), CosinePath()], ids=repr)
@pytest.mark.parametrize("optimal", [False, True])
def test_a_flow_between_two_laws_that_are_not_standard_normal(path, optimal):
    field = ModelField(Between(path, optimal), path, "velocity")
    start = -4 + 0.5 * normal(4000, 0, 1)
    flow = make_solver("heun").bind(field, path)
    got = sample(flow, start, time_grid("uniform", 200, path))
    assert float(got.mean()) == pytest.approx(3, abs=0.1) and float(got.std()) == pytest.approx(2, rel=0.03)
    torch.testing.assert_close(
        got, 3 + 2 * (start + 4) / 0.5, rtol=0, atol=0.15
    )  # in one dimension both are monotone


def test_the_flow_of_monotone_pairs_is_straight_on_the_linear_path():
    """Its exact field is right in one step of Euler; that of independent pairs ends in the mean."""
    path, start = LinearPath(), -4 + 0.5 * normal(2000, 0, 1)
    one = {
        optimal: sample(
            make_solver("euler").bind(ModelField(Between(path, optimal), path, "velocity"), path), start, [0, 1]
        )
        for optimal in (False, True)
    }
    data = 3 + 2 * normal(2000, 1, 1)
    assert float(one[False].std()) < 1e-6
    assert sliced_wasserstein(one[True], data) < 0.2 < sliced_wasserstein(one[False], data)


def test_the_loss_of_optimal_pairs_vanishes_at_the_monotone_flow():
    """The variance of data − start at a point is what the loss cannot go below; optimal pairs have none in 1-D."""
    path, data, start = LinearPath(), 3 + 2 * normal(400, 1, 1), -4 + 0.5 * normal(400, 0, 1)
    best = {}
    for coupling, optimal in (("independent", False), ("optimal_transport", True)):
        objective = DenoisingObjective(path, "velocity", coupling=coupling)
        best[coupling] = float(objective(Between(path, optimal), {"data": data, "start": start}, gen(3)).mean())
    assert best["optimal_transport"] < 0.05 * best["independent"]
