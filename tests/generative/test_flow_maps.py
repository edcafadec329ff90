"""Flow maps against the closed form that Gaussian data have."""

import pytest
import torch
from torch import nn

from diffpolicy.generative.flow_maps import AverageVelocity, FlowMapProcess, MeanFlowObjective, _rate
from diffpolicy.generative.paths import CosinePath, LinearPath
from diffpolicy.generative.sampling import sample
from diffpolicy.generative.shapes import expand

MEAN, STD = 0.7, 0.3


class Exact(nn.Module):
    """The average velocity of the linear path's flow for data from N(MEAN, STD²), any shape, plus a bias.

    The marginals are N(t·MEAN, (t·STD)² + (1 − t)²), and the flow keeps a point's place in units of their width.
    """

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2, dtype=torch.float64))  # of the velocity, and of longer spans

    @staticmethod
    def width(t):
        return torch.sqrt((t * STD) ** 2 + (1 - t) ** 2)

    def velocity(self, x, t):
        slope = (t * STD**2 - (1 - t)) / self.width(t) ** 2
        return MEAN + expand(slope, x) * (x - expand(t * MEAN, x))

    def forward(self, x, t, cond=None, r=None):
        place = (x - expand(t * MEAN, x)) / expand(self.width(t), x)
        there = expand(r * MEAN, x) + expand(self.width(r), x) * place
        span = r - t
        jump = (there - x) / expand(torch.where(span > 0, span, torch.ones_like(span)), x)
        is_jump = expand(span > 0, x)
        return torch.where(is_jump, jump + self.bias[1], self.velocity(x, t) + self.bias[0])


def _points(rows=512, shape=(3, 2)):
    generator = torch.Generator().manual_seed(0)
    return torch.randn((rows, *shape), generator=generator, dtype=torch.float64), generator


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_any_number_of_steps_gives_the_data(steps):
    noise, _ = _points()
    flow = AverageVelocity(Exact())
    data = sample(flow, noise, torch.linspace(0, 1, steps + 1, dtype=torch.float64))
    torch.testing.assert_close(data, MEAN + STD * noise, rtol=0, atol=1e-12)
    assert flow.calls == steps


def test_the_mean_flow_identity():
    """u = v + (s − t)·du/dt along the flow, with the forward-mode derivative."""
    x, generator = _points()
    u = torch.rand((len(x), 2), generator=generator, dtype=torch.float64)
    t, s = u.amin(1), u.amax(1)
    net = Exact()
    v = net.velocity(x, t)
    found = v + expand(s - t, x) * _rate(net, x, t, s, None, v)
    torch.testing.assert_close(found, net(x, t, r=s), rtol=1e-9, atol=1e-9)


def test_the_flow_map_is_where_the_gradient_is_zero():
    objective = MeanFlowObjective(LinearPath(), span_fraction=0.5, power=0.0)
    noise, generator = _points(rows=20_000)
    net = Exact()
    gradients = []
    for shift in ((0.0, 0.0), (0.2, 0.0), (0.0, 0.2)):
        net.bias.data = torch.tensor(shift, dtype=torch.float64)
        net.zero_grad()
        objective(net, {"data": MEAN + STD * noise}, generator.manual_seed(1)).mean().backward()
        gradients.append(net.bias.grad)
    # of 20,000·6 draws with a spread of order 1: 0.02 is five standard errors
    assert gradients[0].abs().max() < 0.02
    assert gradients[1][0] > 0.1 and gradients[2][1] > 0.01


class Wavy(nn.Module):
    """Some smooth function of all that a flow map is given."""

    def forward(self, x, t, cond=None, r=None):
        return torch.sin(x * expand(1 + t, x)) + expand(t * r, x) * x


@pytest.mark.parametrize("compiled", [False, True])
def test_mean_flow_is_row_by_row_the_error_of_its_identity(compiled):
    noise, generator = _points(rows=64)
    data, net, h = MEAN + STD * noise, Wavy(), 1e-5
    if compiled:
        net.compile(backend="eager")
    asked = []
    hook = net.register_forward_pre_hook(lambda _, args, kwargs: asked.append((*args, kwargs["r"])), with_kwargs=True)
    found = MeanFlowObjective(LinearPath(), 0.5, 0.0)(net, {"data": data}, generator.manual_seed(3))
    hook.remove()
    x, t, _, s = asked[-1]
    assert 20 < int((s > t).sum()) < 44 and bool((s >= t).all())
    start = (x - expand(t, x) * data) / expand(1 - t, x)  # the noise that was drawn
    v = data - start
    ahead, behind = (Wavy()(x + sign * h * v, t + sign * h, r=s) for sign in (1, -1))
    target = v + expand(s - t, x) * (ahead - behind) / (2 * h)
    expected = (Wavy()(x, t, r=s) - target).square().flatten(1).mean(1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_norms_in_the_networks_own_precision():
    """A float64 network with a norm is differentiated in float64."""

    class Normed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2))

        def forward(self, x, t, cond=None, r=None):
            return self.layers(torch.cat([x, t[:, None], r[:, None]], 1))

    torch.manual_seed(0)
    net, (x, v) = Normed().double(), torch.randn(2, 5, 2, dtype=torch.float64)
    t, s, h = torch.full((5,), 0.3).double(), torch.full((5,), 0.7).double(), 1e-5
    ahead, behind = (net(x + sign * h * v, t + sign * h, r=s) for sign in (1, -1))
    torch.testing.assert_close(_rate(net, x, t, s, None, v), (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-8)


def test_mean_flow_weights_large_errors_down():
    noise, generator = _points()
    batch = {"data": MEAN + STD * noise}
    plain, weighted = (
        MeanFlowObjective(LinearPath(), 0.25, power)(Exact(), batch, generator.manual_seed(3)) for power in (0.0, 1.0)
    )
    torch.testing.assert_close(weighted, plain / (plain + 1e-3))


def test_a_small_network_learns_to_jump_to_two_modes():
    torch.manual_seed(0)

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))

        def forward(self, x, t, cond=None, r=None):
            return self.layers(torch.cat([x, t[:, None], r[:, None]], dim=1))

    generator = torch.Generator().manual_seed(0)
    data = torch.randint(0, 2, (256, 1), generator=generator) * 2.0 - 1
    noise = torch.randn(1000, 1, generator=generator)
    objective, net = MeanFlowObjective(LinearPath(), 0.5, 1.0), Small()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(600):
        optimizer.zero_grad()
        objective(net, {"data": data}, generator).mean().backward()
        optimizer.step()
    drawn = sample(AverageVelocity(net), noise, [0.0, 1.0])
    # one step of plain flow matching would answer with the mean, 0, everywhere
    assert (drawn.abs() - 1).abs().median() < 0.45
    assert 0.3 < float((drawn > 0).float().mean()) < 0.7


def test_what_makes_no_objective():
    with pytest.raises(ValueError, match=r"span_fraction=1.5; expected a probability"):
        MeanFlowObjective(LinearPath(), span_fraction=1.5)
    with pytest.raises(ValueError, match=r"flow map on CosinePath.*expected the linear path"):
        MeanFlowObjective(CosinePath())


class Labeled(nn.Module):
    """Says 3 without a label and 0 with one, at any two times."""

    def null(self, cond):
        return torch.full_like(cond, 9)

    def forward(self, x, t, cond, r=None):
        return torch.where(expand(cond == 9, x), torch.full_like(x, 3.0), torch.zeros_like(x))


def test_guidance_is_taught():
    """With a label the target is w·(data − noise) + (1 − w)·net(∅), without one data − noise."""
    data = 5 * torch.ones(4000, 2, dtype=torch.float64)
    batch = {"data": data, "cond": torch.zeros(4000, dtype=torch.int64)}
    loss = MeanFlowObjective(LinearPath(), 0.0, power=0.0, guidance=2.0, condition_dropout=0.25)
    losses = loss(Labeled(), batch, torch.Generator().manual_seed(0))
    # per number: labeled E(2·(5 − ε) − 3)² = 49 + 4, dropped E(5 − ε − 3)² = 4 + 1
    labeled = losses > 25  # the mean of two: 4 against 49 on average, and rarely between
    assert float(labeled.double().mean()) == pytest.approx(0.75, abs=0.06)
    assert float(losses.mean()) == pytest.approx(0.75 * 53 + 0.25 * 5, rel=0.03)


def test_no_guidance_and_dropout_teach_the_velocity_of_both():
    data = 5 * torch.ones(4000, 2, dtype=torch.float64)
    batch = {"data": data, "cond": torch.zeros(4000, dtype=torch.int64)}
    loss = MeanFlowObjective(LinearPath(), 0.0, power=0.0, condition_dropout=0.5)
    losses = loss(Labeled(), batch, torch.Generator().manual_seed(0))
    assert float(losses.mean()) == pytest.approx(0.5 * 26 + 0.5 * 5, rel=0.05)


def test_guidance_needs_dropout():
    with pytest.raises(ValueError, match=r"guidance=2 without dropout.*condition_dropout=0.1"):
        MeanFlowObjective(LinearPath(), guidance=2.0)


def test_the_process_jumps_in_the_steps_that_it_is_told():
    process = FlowMapProcess(LinearPath())
    process.configure(steps=3)
    noise, _ = _points()
    data, calls = process.draw(Exact(), noise, None)
    torch.testing.assert_close(data, MEAN + STD * noise, rtol=0, atol=1e-12)
    assert calls == 3 and process.sampler == {"solver": "flow_map", "steps": 3, "grid": "uniform", "options": {}}
    for settings in ({"solver": "euler"}, {"grid": "log_snr"}, {"options": {"eta": 1}}, {"path": CosinePath()}):
        with pytest.raises(ValueError, match="steps alone"):
            process.configure(**settings)
