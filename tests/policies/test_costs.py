"""Costs of a chunk: what a step down each gradient does in closed form, and what a policy's chunks keep to."""

import math

import numpy as np
import pytest
import tiny_policy as tiny
import torch

from diffpolicy.config import ExecutionConfig, SamplerConfig
from diffpolicy.generative.guidance import Changed, Inpaint
from diffpolicy.generative.mixture import ExactField, GaussianMixture
from diffpolicy.generative.paths import CosinePath, LinearPath
from diffpolicy.generative.sampling import generate
from diffpolicy.generative.solvers import make_solver
from diffpolicy.policies import PlanRequest
from diffpolicy.policies.chunking import SamplingContext
from diffpolicy.policies.costs import Box, Custom, KeepOut, Reach, Smooth, Speed, lowered, make_costs, with_costs

A = tiny.A
NOW = tiny.T_O - 1


def chunks(seed=0, rows=3, scale=1.0):
    return scale * torch.randn(rows, 6, A, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_step_of_weight_1_undoes_a_violation():
    a = chunks()
    out = KeepOut(center=[0.0, 0.0], radius=1.0).lowered(a)
    away = a.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(out, torch.where(away < 1, a / away, a))
    torch.testing.assert_close(out, KeepOut(center=[0.0, 0.0], radius=1.0, hard=True).lowered(a))
    half = KeepOut(center=[0.0, 0.0], radius=1.0, weight=0.5).lowered(a)
    torch.testing.assert_close(half, (a + out) / 2)
    inside = Box(low=[-0.5, -0.2], high=[0.5, 0.3]).lowered(a)
    torch.testing.assert_close(inside, torch.stack([a[..., 0].clamp(-0.5, 0.5), a[..., 1].clamp(-0.2, 0.3)], -1))
    reached = Reach(point=[3.0], dims=[1]).lowered(a)
    assert torch.equal(reached[..., 0], a[..., 0]) and torch.equal(reached[:, :-1], a[:, :-1])
    torch.testing.assert_close(reached[:, -1, 1], torch.full((3,), 3.0, dtype=torch.float64))


def test_values_by_hand():
    a = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [3.0, 4.0]]], dtype=torch.float64)
    assert KeepOut(center=[3.0, 0.0], radius=4.5).value(a).item() == pytest.approx(0.5 * (1.5**2 + 2 * 0.5**2))
    assert Speed(limit=2.0).value(a).item() == pytest.approx(0.5 * 3.0**2)
    assert Smooth().value(a).item() == pytest.approx(0.5 * 25)
    assert Smooth(dims=[1]).value(a).item() == pytest.approx(0.5 * 16)


def test_the_middle_of_a_ball_has_a_way_out():
    out = KeepOut(center=[1.0, 2.0], radius=3.0, hard=True).lowered(torch.tensor([[[1.0, 2.0]]]))
    assert float((out - torch.tensor([1.0, 2.0])).norm()) == pytest.approx(3.0)


def test_hard_speed_is_a_limit_and_leaves_slow_chunks():
    a = chunks(scale=2.0)
    slow = Speed(limit=0.7, hard=True).lowered(a)
    assert float(slow.diff(dim=1).norm(dim=-1).max()) <= 0.7 + 1e-9 and torch.equal(slow[:, 0], a[:, 0])
    again = Speed(limit=0.7 + 1e-6, hard=True).lowered(slow)
    torch.testing.assert_close(again, slow)


def test_no_weight_that_is_allowed_overshoots():
    a = chunks()
    for cost in (Smooth(), Smooth(weight=1.9), Speed(limit=0.5), Speed(limit=0.5, weight=1.9)):
        once = cost.lowered(a)
        twice = cost.lowered(once)
        assert bool((cost.value(once) < cost.value(a)).all()) and bool((cost.value(twice) < cost.value(once)).all())
    worst = torch.tensor([1.0, -1.0]).double().repeat(20)[None, :, None]
    assert float(Smooth().lowered(worst)[:, 5:-5].abs().max()) < 1e-9, "the quickest wiggle is gone in one step"


def test_costs_count_from_their_start_on():
    a, box = chunks(scale=3.0), Box(low=[-1, -1], high=[1, 1], start=0.5)
    t = torch.tensor([0.2, 0.5, 0.9])
    found = lowered([box], a, t)
    assert torch.equal(found[0], a[0]) and float(found[1:].abs().max()) == 1


@pytest.mark.parametrize("path", [LinearPath(), CosinePath()], ids=repr)
@pytest.mark.parametrize("solver", ["euler", "ddim", "dpmpp_2m", "euler_maruyama"])
def test_of_two_modes_the_one_that_is_allowed_is_drawn(path, solver):
    """Points at ±1.5 by an exact field: with a ball about one, nearly all go to the other, and none into the ball."""
    means = torch.tensor([[-1.5, 0.0], [1.5, 0.0]], dtype=torch.float64)
    field = ExactField(GaussianMixture(means, torch.tensor([0.2, 0.2]), torch.tensor([0.5, 0.5])), path)
    cost = KeepOut(center=[1.5, 0.0], radius=2.2)

    def change(data, t):
        return lowered([cost], data[:, None], t)[:, 0]

    def drawn(of):
        source = torch.Generator().manual_seed(0)
        return generate(of, path, make_solver(solver), (400, 2), steps=20, generator=source, dtype=torch.float64)

    free, kept = drawn(field), drawn(Changed(field, change))
    assert 0.4 < float((free[:, 0] > 0).double().mean()) < 0.6
    assert float((kept - means[1]).norm(dim=1).min()) > 2.2 - 1e-6
    assert float(((kept - means[0]).norm(dim=1) < 0.8).double().mean()) > 0.9


def test_what_is_held_stays_as_it_is():
    field = ExactField(_standard(), LinearPath())
    known, mask = torch.full((4, 2), 5.0, dtype=torch.float64), torch.tensor([True, False])
    wrapped = Inpaint(Changed(field, lambda data, t: data.clamp(-0.1, 0.1)), known, mask)
    source = torch.Generator().manual_seed(0)
    found = generate(
        wrapped, LinearPath(), make_solver("euler"), (4, 2), steps=5, generator=source, dtype=torch.float64
    )
    torch.testing.assert_close(found[:, 0], known[:, 0])
    assert float(found[:, 1].abs().max()) <= 0.1 + 1e-9


def _standard():
    return GaussianMixture(torch.zeros(1, 2).double(), torch.ones(1).double(), torch.ones(1).double())


@pytest.mark.parametrize("method", ["flow", "ddpm"])
@pytest.mark.parametrize("hard", [False, True])
def test_a_policys_chunks_keep_out_in_their_own_units(method, hard):
    obs, keys = tiny.observations(6), [(i, 0) for i in range(6)]
    free = tiny.policy(method).plan(PlanRequest(obs, keys)).trajectory
    first = free[0, NOW]  # ddpm's lie on the bounds: a ball around one beyond them pushes inwards
    center, radius = first + 30 * np.sign(first - 250), 60.0
    costs = [{"name": "keep_out", "center": center.tolist(), "radius": radius, "hard": hard}]
    chunk = tiny.policy(method, execution=ExecutionConfig(costs=costs)).plan(PlanRequest(obs, keys))
    entered = np.linalg.norm(free[:, NOW:] - center, axis=-1) < radius * (1 - 1e-4)
    assert 0.05 < entered.mean() < 0.95
    assert np.linalg.norm(chunk.trajectory[:, NOW:] - center, axis=-1).min() > radius * (1 - 1e-3)
    assert chunk.calls.tolist() == tiny.policy(method).plan(PlanRequest(obs, keys)).calls.tolist(), "no further calls"


@pytest.mark.parametrize(
    ("cost", "says"),
    [
        ({"name": "keep_away", "radius": 1.0}, "unknown cost 'keep_away'"),
        ({"name": "keep_out", "center": [0.0], "radius": 1.0}, r"center=\[0.0\]; expected 2 finite numbers"),
        ({"name": "keep_out", "center": [0.0, math.nan], "radius": 1.0}, "2 finite numbers"),
        ({"name": "keep_out", "center": [0.0, 0.0], "radius": 0.0}, "radius=0.0"),
        ({"name": "keep_out", "center": [0.0, 0.0], "radius": 1.0, "dims": [0, 2]}, r"dims=\[0, 2\].*from 0 to 1"),
        ({"name": "smooth", "weight": 0.0}, "weight=0.0 of Smooth"),
        ({"name": "smooth", "weight": 2.0}, "weight=2.0 of Smooth; expected a number above 0 and below 2"),
        ({"name": "keep_out", "center": 5.0, "radius": 1.0}, "center=5.0; expected 2 finite numbers"),
        ({"name": "keep_out", "center": [True, 1.0], "radius": 1.0}, r"center=\[True, 1.0\]; expected 2 finite"),
        ({"name": "keep_out", "center": [0.0, 0.0], "radius": "70"}, "radius='70'"),
        ({"name": "keep_out", "center": [0.0, 0.0], "radius": 1.0, "hard": "no"}, "hard='no'.*true or false"),
        ({"name": "smooth", "dims": 0}, r"dims=0 of Smooth; expected different integers from 0 to 1"),
        ({"name": "smooth", "dims": [0, 0]}, r"dims=\[0, 0\]"),
        ({"name": "smooth", "start": 1.0}, "start=1.0 of Smooth"),
        ({"name": "smooth", "hard": True}, "has no option 'hard'"),
        ({"name": "box", "low": [1.0, 0.0], "high": [0.0, 1.0]}, "low < high"),
        ({"name": "speed", "limit": -1.0}, "limit=-1.0"),
        ({"name": "reach", "point": [1.0], "dims": [1], "at": 3}, "has no option 'at'"),
    ],
)
def test_costs_that_mean_nothing_are_refused_when_a_policy_is_made(cost, says):
    with pytest.raises(ValueError, match=says):
        tiny.policy("flow", execution=ExecutionConfig(costs=[cost]))


def test_costs_of_ones_own():
    own = Custom(lambda a: 0.5 * (a - 7.0).square().sum((1, 2)))
    (found,) = make_costs([own], A)
    torch.testing.assert_close(found.lowered(chunks()), torch.full((3, 6, A), 7.0, dtype=torch.float64))
    for function, says in (
        (lambda a: a.sum(), r"returned shape \(\); expected \(3,\)"),
        (lambda a: a.detach().sum((1, 2)), "cannot be differentiated"),
        (lambda a: a.log().sum((1, 2)), "is not finite"),
        (lambda a: torch.zeros(len(a), requires_grad=True), "does not depend on the actions"),
    ):
        with pytest.raises(ValueError, match=says):
            Custom(function).lowered(chunks())


@pytest.mark.parametrize("method", ["mean_flow", "regression", "nearest"])
def test_methods_without_a_field_refuse_costs(method):
    with pytest.raises(ValueError, match="costs=.* is not supported by the policy's method"):
        tiny.policy(method, execution=ExecutionConfig(costs=[{"name": "smooth"}]))


def test_actions_that_are_held_are_not_changed():
    obs = tiny.observations(1)
    first = tiny.policy("flow", execution=ExecutionConfig(inpaint=4)).plan(PlanRequest(obs, [(0, 0)]))
    again = PlanRequest(obs, [(0, 1)], first.memory)
    box = {"name": "box", "low": [600.0, 600.0], "high": [700.0, 700.0], "hard": True}
    chunk = tiny.policy("flow", execution=ExecutionConfig(inpaint=4, costs=[box])).plan(again)
    plain = tiny.policy("flow", execution=ExecutionConfig(inpaint=4)).plan(again)
    np.testing.assert_allclose(chunk.trajectory[0, : NOW + 4], plain.trajectory[0, : NOW + 4], rtol=1e-5, atol=1e-3)
    assert chunk.trajectory[0, NOW + 4 :].min() >= 600 - 1e-2


def test_the_last_estimate_counts_whatever_the_start():
    obs = tiny.observations(2)
    box = {"name": "box", "low": [600.0, 600.0], "high": [700.0, 700.0], "hard": True, "start": 0.99}
    for steps in (1, 3):
        policy = tiny.policy("flow", execution=ExecutionConfig(costs=[box]))
        policy.model.configure(SamplerConfig(steps=steps))
        assert policy.predict(obs).min() >= 600 - 1e-2


def test_hard_costs_come_last_and_not_before_an_average():
    ball = {"name": "keep_out", "center": [250.0, 250.0], "radius": 60.0, "hard": True}
    costs = make_costs([ball, {"name": "smooth"}], A)
    assert isinstance(costs[0], Smooth) and isinstance(costs[1], KeepOut)
    with pytest.raises(ValueError, match="hard costs and an ensemble"):
        tiny.policy("flow", t_a=4, execution=ExecutionConfig(costs=[ball], ensemble=0.0))
    with pytest.raises(ValueError, match=r"a list of mappings.*set policy.costs to make_costs"):
        tiny.policy("flow", execution=ExecutionConfig(costs=[Smooth()]))


def test_costs_of_a_policy_may_be_replaced():
    policy, obs = tiny.policy("flow"), tiny.observations(2)
    policy.costs = make_costs([Custom(lambda a: 0.5 * (a - 300.0).square().sum((1, 2)))], policy.action_dim)
    np.testing.assert_allclose(policy.predict(obs), 300.0, atol=1e-2)


def test_what_costs_nothing_is_left_where_it_was_drawn():
    """The model draws cosine, sine and a place; estimates off the unit circle stay there."""

    def in_units(drawn, obs):
        return torch.stack([torch.atan2(drawn[..., 1], drawn[..., 0]), drawn[..., 2]], -1)

    def normalized(actions, obs):
        return torch.stack([actions[..., 0].cos(), actions[..., 0].sin(), actions[..., 1]], -1)

    drawn, obs, t = (
        torch.randn(3, 6, 3, generator=torch.Generator().manual_seed(0)),
        torch.zeros(3, 2, 4),
        torch.ones(3),
    )
    idle, place = Box(low=[-9.0, -9.0], high=[9.0, 9.0]), Box(low=[-0.1], high=[0.1], dims=[1])
    for costs in ([idle], [idle, place]):
        context = with_costs(costs, SamplingContext(), obs, in_units, normalized)
        found = context.change(drawn, t)
        assert torch.equal(found[..., :2], drawn[..., :2])
        assert torch.equal(found[..., 2], drawn[..., 2]) == (place not in costs)
    torch.testing.assert_close(found[:, 1:, 2], drawn[:, 1:, 2].clamp(-0.1, 0.1))
    assert torch.equal(found[:, 0], drawn[:, 0]), "the past"
    assert with_costs([], context, obs, in_units, normalized) is context
