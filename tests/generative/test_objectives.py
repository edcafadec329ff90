import math

import pytest
import torch
from mixture import ExactNet, ring
from scipy import stats

from diffpolicy.generative.mixture import ExactField
from diffpolicy.generative.objectives import ROWS, DenoisingObjective
from diffpolicy.generative.paths import (
    CosinePath,
    DiscretePath,
    LinearPath,
    SquareRootPath,
    VarianceExplodingPath,
    VariancePreservingPath,
)
from diffpolicy.generative.predictions import PREDICTIONS, Estimate, target, velocity
from diffpolicy.generative.shapes import expand, rand, randn
from diffpolicy.generative.weighting import TIMES, WEIGHTINGS
from diffpolicy.util.condition import Condition

PATHS = [
    LinearPath(),
    SquareRootPath(),
    CosinePath(),
    VariancePreservingPath(),
    VarianceExplodingPath(),
    DiscretePath(100),
]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def data(shape=(16, 2), dtype=torch.float64):
    return randn(shape, gen(9), dtype=dtype, device="cpu")


class Recorder:
    """A network that notes what it is given and outputs x."""

    def __call__(self, x, t, cond=None, r=None):
        self.x, self.t, self.cond = x, t, cond
        return x

    @staticmethod
    def null(cond):
        return torch.full_like(cond, -1)


@pytest.mark.parametrize("shape", [(5, 2), (5, 16, 2), (5, 1, 32, 32)], ids=str)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_native_loss_by_hand(path, prediction, shape):
    clean, net = data(shape), Recorder()
    loss = DenoisingObjective(path, prediction)(net, {"data": clean}, gen())
    generator = gen()
    t = rand((5,), generator, dtype=torch.float64, device="cpu")
    noise = randn(shape, generator, dtype=torch.float64, device="cpu")
    x = expand(path.alpha(t), clean) * clean + expand(path.sigma(t), clean) * noise
    assert torch.equal(net.x, x) and torch.equal(net.t, t) and net.cond is None
    want = (x - target(prediction, clean, noise, t, path)).square().reshape(5, -1).mean(1)
    torch.testing.assert_close(loss, want)


def test_flow_matching_in_one_line():
    """|net − (data − noise)|² on x = t·data + (1 − t)·noise."""
    clean, net = data(), Recorder()
    loss = DenoisingObjective(LinearPath(), **ROWS["flow_matching"])(net, {"data": clean}, gen())
    noise = (net.x - net.t[:, None] * clean) / (1 - net.t[:, None])
    torch.testing.assert_close(loss, (net.x - (clean - noise)).square().mean(1))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_a_weighting_is_the_same_loss_for_every_prediction(path, weighting):
    """A network that always means the same data estimate, whatever it outputs."""
    losses = []
    for prediction in PREDICTIONS:

        def net(x, t, cond, prediction=prediction):
            alpha, sigma = expand(path.alpha(t), x), expand(path.sigma(t), x)
            guess = torch.sin(x)
            return target(prediction, guess, (x - alpha * guess) / sigma, t, path)

        objective = DenoisingObjective(path, prediction, weighting=weighting)
        losses.append(objective(net, {"data": data()}, gen()))
        assert bool(losses[-1].isfinite().all() and (losses[-1] > 0).all())
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-6, atol=0)


def test_weightings_by_hand():
    path, t = LinearPath(), torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    snr = [0.0625, 1.0, 16.0]
    want = {
        "uniform": [1.0] * 3,
        "snr": snr,
        "min_snr": [0.0625, 1.0, 5.0],
        "sigmoid": [s / (1 + math.exp(math.log(s) - 2)) for s in snr],
        "notes_uniform": snr,
        "notes_snr": [s * s for s in snr],
        "notes_cosine": [s * s / (1 + s) for s in snr],
    }
    assert want.keys() == WEIGHTINGS.keys()
    for name, values in want.items():
        on_data = DenoisingObjective(path, "data", weighting=name).weight(t)
        torch.testing.assert_close(on_data, torch.tensor(values, dtype=torch.float64))
    on_noise = DenoisingObjective(path, "noise", weighting="snr").weight(t)
    torch.testing.assert_close(on_noise, torch.ones(3, dtype=torch.float64))
    for name, on_the_noise_loss in (
        ("notes_uniform", [1.0] * 3),
        ("notes_snr", snr),
        ("notes_cosine", [0.04 / 0.68, 0.5, 0.64 / 0.68]),
    ):
        weight = DenoisingObjective(path, "noise", weighting=name).weight(t)
        torch.testing.assert_close(weight, torch.tensor(on_the_noise_loss, dtype=torch.float64))
    on_score = DenoisingObjective(path, **ROWS["score_matching"]).weight(t)
    torch.testing.assert_close(on_score, path.sigma(t) ** 2)


@pytest.mark.parametrize("weighting", ["native", *WEIGHTINGS])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_weights_are_finite_at_the_ends(path, prediction, weighting):
    for dtype in (torch.float32, torch.float64):
        weight = DenoisingObjective(path, prediction, weighting=weighting).weight(torch.tensor([0, 1], dtype=dtype))
        assert weight.dtype == dtype and bool(weight.isfinite().all() and (weight >= 0).all())


@pytest.mark.parametrize(
    ("times", "distribution"),
    [
        ("uniform", stats.uniform()),
        ("low_discrepancy", stats.uniform()),
        ("logit_normal", None),
        ("beta", None),
    ],
)
def test_draws_of_t(times, distribution):
    net = Recorder()
    DenoisingObjective(LinearPath(), "velocity", times)(net, {"data": torch.zeros(4000, 1)}, gen())
    t = net.t.double().numpy()
    assert t.min() >= 0 and t.max() <= 1
    if times == "logit_normal":
        cdf = stats.logistic().ppf  # t = sigmoid(z): P(t < v) = Φ(logit v)
        assert stats.kstest(t, lambda v: stats.norm.cdf(cdf(v))).pvalue > 0.01
    elif times == "beta":
        assert stats.kstest(1 - t / 0.999, stats.beta(1.5, 1).cdf).pvalue > 0.01
    else:
        assert stats.kstest(t, distribution.cdf).pvalue > 0.01
    if times == "low_discrepancy":
        gaps = net.t.double().sort().values.diff()
        torch.testing.assert_close(gaps, torch.full((3999,), 1 / 4000, dtype=torch.float64), rtol=0, atol=1e-6)


def test_discrete_draws_are_the_indices():
    path, net = DiscretePath(20), Recorder()
    DenoisingObjective(path, **ROWS["ddpm_simple"])(net, {"data": data((4000, 1))}, gen())
    k = (1 - net.t) * 20 - 1
    torch.testing.assert_close(k, k.round(), rtol=0, atol=1e-9)
    counts = torch.bincount(k.round().long(), minlength=20)
    assert len(counts) == 20 and stats.chisquare(counts.numpy()).pvalue > 0.01


def test_all_draws_stay_off_nan_at_the_ends_of_u():
    u = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    for name, draw in TIMES.items():
        t = draw(u, DiscretePath(10))
        assert bool(((t >= 0) & (t <= 1)).all()), name


@pytest.mark.parametrize("row", ROWS)
def test_the_exact_network_has_the_least_loss(row):
    """The exact posterior mean beats any change of it, for every row of the table."""
    path = DiscretePath(100)
    exact = ExactField(ring((2,)), path)
    objective = DenoisingObjective(path, **ROWS[row])
    batch = {"data": exact.mixture.sample(4000, gen(1))}
    net = ExactNet(exact, objective.prediction)
    best = objective(net, batch, gen(2)).mean()
    for scale in (0.8, 1.2):
        assert objective(lambda *a, s=scale: s * net(*a), batch, gen(2)).mean() > best


def test_reproducible_and_row_wise():
    objective = DenoisingObjective(LinearPath(), "velocity", "logit_normal", condition_dropout=0.5)
    batch = {"data": data((6, 3), torch.float32), "cond": torch.ones(6, 2)}
    a, b = objective(Recorder(), batch, gen(4)), objective(Recorder(), batch, gen(4))
    assert torch.equal(a, b) and a.shape == (6,) and a.dtype == torch.float32
    assert not torch.equal(a, objective(Recorder(), batch, gen(5)))


@pytest.mark.parametrize("cond", [torch.arange(2000), torch.ones(2000, 3, 2)], ids=["labels", "features"])
def test_condition_dropout(cond):
    net, batch = Recorder(), {"data": torch.zeros(2000, 1), "cond": cond}
    for p in (0.0, 0.25, 1.0):
        DenoisingObjective(LinearPath(), "velocity", condition_dropout=p)(net, batch, gen())
        dropped = (net.cond == -1).reshape(2000, -1)
        assert bool((dropped.all(1) == dropped.any(1)).all())  # whole rows
        kept = ~dropped.any(1)
        assert torch.equal(net.cond[kept], cond[kept]) and net.cond.dtype == cond.dtype
        assert float(dropped.any(1).double().mean()) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 2000))


def test_a_condition_is_dropped_as_its_vector_would_be():
    batch = {"data": torch.zeros(50, 1), "cond": torch.ones(50, 3)}
    tokens, mask = torch.randn(50, 4, 2), torch.rand(50, 4) < 0.5
    objective, plain, whole = (
        DenoisingObjective(LinearPath(), "velocity", condition_dropout=0.5),
        Recorder(),
        Recorder(),
    )
    objective(plain, batch, gen())
    whole.null = lambda cond: Condition(-torch.ones_like(cond.vector), -cond.tokens, ~cond.mask)
    objective(whole, batch | {"cond": Condition(batch["cond"], tokens, mask)}, gen())
    dropped = plain.cond[:, 0] == -1
    assert 10 < dropped.sum() < 40 and torch.equal(whole.cond.vector, plain.cond)
    assert torch.equal(whole.cond.tokens, torch.where(dropped[:, None, None], -tokens, tokens))
    assert torch.equal(whole.cond.mask, mask ^ dropped[:, None])


def test_gradients_flow():
    weight = torch.zeros(2, requires_grad=True)
    loss = DenoisingObjective(LinearPath(), "velocity")(lambda x, t, c: x * weight, {"data": data().float()}, gen())
    loss.mean().backward()
    assert bool((weight.grad != 0).all())


def test_network_may_answer_for_a_velocity_field():
    """A network trained on the objective is read as the same velocity: no scale lies between the two."""
    path, clean, net = CosinePath(), data(), Recorder()
    DenoisingObjective(path, "velocity")(net, {"data": clean}, gen())
    noise = (net.x - expand(path.alpha(net.t), clean) * clean) / expand(path.sigma(net.t), clean)
    u = velocity(Estimate(clean, noise), net.t, path)
    loss = DenoisingObjective(path, "velocity")(lambda x, t, c: u, {"data": clean}, gen())
    torch.testing.assert_close(loss, torch.zeros(16, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prediction": "epsilon"}, "unknown prediction 'epsilon'"),
        ({"times": "logitnormal"}, "did you mean 'logit_normal'"),
        ({"weighting": "minsnr"}, "did you mean 'min_snr'"),
        ({"condition_dropout": 1.5}, r"probability in \[0, 1\]"),
        ({"condition_dropout": math.nan}, r"probability in \[0, 1\]"),
    ],
)
def test_refused_options(options, words):
    with pytest.raises(ValueError, match=words):
        DenoisingObjective(**{"path": LinearPath(), "prediction": "noise"} | options)


def test_other_refusals():
    with pytest.raises(TypeError, match="expected a DiscretePath"):
        DenoisingObjective(LinearPath(), **ROWS["ddpm_simple"])
    with pytest.raises(ValueError, match=r"a batch of \['action'\]; expected one with 'data'"):
        DenoisingObjective(LinearPath(), "noise")(Recorder(), {"action": data()}, gen())
    with pytest.raises(ValueError, match=r"condition_dropout=0.1 without a batch"):
        DenoisingObjective(LinearPath(), "noise", condition_dropout=0.1)(Recorder(), {"data": data()}, gen())
