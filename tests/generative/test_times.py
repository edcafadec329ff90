"""Times drawn where the loss has been large: their law in closed form, no bias, less variance, and the history."""

import pytest
import torch
from scipy import stats

from diffpolicy.generative.objectives import DenoisingObjective
from diffpolicy.generative.paths import DiscretePath, LinearPath
from diffpolicy.generative.process import GenerativeProcess
from diffpolicy.generative.shapes import NoiseSource
from diffpolicy.generative.times import BINS, EVEN, HISTORY, LossAware

PATHS = [LinearPath(), DiscretePath(20)]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def aware(path):
    times = "discrete" if isinstance(path, DiscretePath) else "uniform"
    return LossAware(DenoisingObjective(path, "data", times))


def height(t):
    """A loss that is a hundred times larger at some times than at others."""
    return 0.1 + 10 * t**4


def net(x, t, cond=None):
    """Of data 0, an output whose squared error is `height`."""
    return height(t).sqrt()[:, None].expand_as(x).to(x.dtype)


def batch(n, dtype=torch.float64):
    return {"data": torch.zeros(n, 2, dtype=dtype)}


def taught(path):
    """With full histories: a few losses of each bin, at its middle or its index."""
    objective = aware(path)
    n = len(objective.counts)
    middles = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    t = middles if path == PATHS[0] else path.time_at_index(torch.arange(n))
    for _ in range(HISTORY):
        objective._note(objective.bins(t), height(t))
    return objective, t


def expectation(path):
    if isinstance(path, DiscretePath):
        return float(height(path.time_at_index(torch.arange(path.steps))).mean())
    return 0.1 + 10 / 5  # ∫ 10·t⁴


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_the_law_is_the_papers_and_the_draws_follow_it(path):
    objective, t = taught(path)
    want = (1 - EVEN) * height(t) / height(t).sum() + EVEN / len(t)  # √E[L²] is L itself here
    torch.testing.assert_close(objective.probabilities(), want, rtol=1e-6, atol=0)
    seen = []
    objective(lambda x, t, cond: seen.append(t) or net(x, t), batch(40_000), gen())
    counts = torch.bincount(objective.bins(seen[0]), minlength=len(t))
    assert stats.chisquare(counts.numpy(), (want * 40_000).numpy()).pvalue > 0.01
    if path == PATHS[0]:  # evenly within a bin
        assert stats.kstest((seen[0] * BINS % 1).numpy(), stats.uniform().cdf).pvalue > 0.01


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_the_loss_keeps_its_expectation_and_loses_variance(path):
    objective, _ = taught(path)
    drawn, even = (one(net, batch(20_000), gen(1)) for one in (objective, objective.objective))
    want = expectation(path)
    for loss in (drawn, even):
        assert abs(float(loss.mean()) - want) < 4 * float(loss.std()) / 20_000**0.5
    assert drawn.var() < 0.02 * even.var()


def test_the_gradient_keeps_its_expectation_and_loses_variance():
    objective, _ = taught(PATHS[0])

    def gradients(loss):
        scale = torch.ones(20_000, 1, dtype=torch.float64, requires_grad=True)
        loss(lambda x, t, cond: scale * net(x, t), batch(20_000), gen(2)).sum().backward()
        return scale.grad[:, 0]

    drawn, even = gradients(objective), gradients(objective.objective)
    assert float(drawn.mean()) == pytest.approx(2 * expectation(PATHS[0]), rel=0.01)  # of c²·height at c = 1
    assert drawn.var() < 0.02 * even.var()


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_times_are_even_until_every_bin_has_its_history(path):
    objective = aware(path)
    n = len(objective.counts)
    t = (torch.arange(n - 1) + 0.5).double() / n if path == PATHS[0] else path.time_at_index(torch.arange(n - 1))
    for _ in range(HISTORY):
        objective._note(objective.bins(t), 100 * height(t))
    assert bool((objective.counts[:-1] >= HISTORY).all()) and objective.counts[-1] == 0
    torch.testing.assert_close(objective.probabilities(), torch.full((n,), 1 / n, dtype=torch.float64))
    drawn = objective(net, batch(500), gen(3))
    torch.testing.assert_close(drawn, objective.objective(net, batch(500), gen(3)))


def test_the_history_is_that_of_a_loop_over_the_samples():
    objective, noise = aware(DiscretePath(4)), gen(4)
    want = {b: [] for b in range(4)}
    for size in (1, 3, 8, 70, 70, 2, 300):  # more than fits into the rings at once
        at, loss = torch.randint(0, 4, (size,), generator=noise), torch.rand(size, generator=noise)
        objective._note(at, loss)
        for b, value in zip(at.tolist(), loss.tolist(), strict=True):
            want[b] = [*want[b], value][-HISTORY:]
        for b in range(4):
            kept = objective.losses[b, : len(want[b])]
            assert sorted(kept.tolist()) == sorted(want[b])
    assert objective.counts.sum() == 454


def test_nothing_but_training_notes_losses():
    objective, _ = taught(PATHS[0])
    before = objective.losses.clone()
    objective.eval()
    assert torch.equal(objective(net, batch(50), gen(5)), objective.objective(net, batch(50), gen(5)))
    assert torch.equal(objective.losses, before)
    objective.train()(lambda *a: 7 + net(*a), batch(50), gen(5))
    assert not torch.equal(objective.losses, before)


def test_losses_of_nothing_draw_even_times():
    objective, _ = taught(PATHS[1])
    objective.losses.zero_()
    assert torch.equal(objective.probabilities(), torch.full((20,), 1 / 20, dtype=torch.float64))


class Half(NoiseSource):
    """One of two halves of a batch, whose other losses are known."""

    def __init__(self, first, others):
        self.first, self.others = first, others

    def draw(self, function, samples):
        drawn = function(2 * samples, gen(6))
        return drawn[:samples] if self.first else drawn[samples:]

    def gather(self, values):
        own = self.others[values.dtype]
        return torch.cat([values, own] if self.first else [own, values])


def test_halves_of_a_batch_note_what_the_whole_batch_notes():
    alone, _ = taught(PATHS[0])
    before = alone.probabilities()
    t, loss = alone.objective.drawn(net, batch(64), alone._inverse(before), gen(6))
    at = alone.bins(t)
    whole = alone(net, batch(64), gen(6))
    for first in (True, False):
        half, _ = taught(PATHS[0])
        rest = slice(32, 64) if first else slice(32)
        part = half(net, batch(32), Half(first, {torch.int64: at[rest], torch.float64: loss[rest]}))
        assert torch.equal(part, whole[:32] if first else whole[32:])
        assert torch.equal(half.losses, alone.losses) and torch.equal(half.counts, alone.counts)


def test_known_steps_have_times_of_their_own():
    objective = GenerativeProcess(LinearPath(), "velocity", times="loss_aware").objective
    known, seen = torch.tensor([[True, True, False, False]]).expand(8, 4), []
    data = torch.randn(8, 4, 2, generator=gen(7))
    loss = objective.prefixed(lambda x, t, cond: seen.append(t) or x, {"data": data}, known, gen(8))
    plain = objective.objective.prefixed(lambda x, t, cond: x, {"data": data}, known, gen(8))
    torch.testing.assert_close(loss, plain)  # no bin has a history yet
    assert bool((seen[0][:, :2] == 1).all()) and objective.counts.sum() == 8
    assert torch.equal(objective.bins(seen[0][:, 2].double()).sort().values, objective.counts.nonzero()[:, 0])


def test_it_is_named_and_refused():
    assert isinstance(GenerativeProcess(DiscretePath(9), "noise", times="loss_aware").objective, LossAware)
    with pytest.raises(ValueError, match="did you mean 'loss_aware'"):
        GenerativeProcess(LinearPath(), "noise", times="loss-aware")
    with pytest.raises(ValueError, match="'logit_normal'; choose from uniform"):
        LossAware(DenoisingObjective(LinearPath(), "noise", "logit_normal"))
    with pytest.raises(ValueError, match="'uniform'; choose from discrete"):
        LossAware(DenoisingObjective(DiscretePath(9), "noise"))
