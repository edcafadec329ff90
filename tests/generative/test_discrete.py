"""Chains of tokens against a law whose posterior is known: every pair of tokens has a probability of its own."""

import math

import pytest
import torch

from diffpolicy.generative.discrete import (
    MaskPath,
    TokenObjective,
    TokenProcess,
    TokenSampler,
    UniformPath,
    token_bound,
)
from diffpolicy.generative.sampling import sample
from diffpolicy.generative.shapes import expand

K, N = 4, 20_000
PATHS = [MaskPath(K), UniformPath(K)]
each = pytest.mark.parametrize("path", PATHS, ids=repr)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def law() -> torch.Tensor:
    """Probabilities (K, K) of two tokens that depend on each other."""
    table = torch.rand(K, K, generator=gen(1), dtype=torch.float64) ** 3
    table[0, 3] = table[2, 1] = 0.0
    return table / table.sum()


def draw(n: int, seed: int = 2) -> torch.Tensor:
    index = torch.multinomial(law().flatten(), n, replacement=True, generator=gen(seed))
    return torch.stack([index // K, index % K], dim=1)


def counted(x: torch.Tensor) -> torch.Tensor:
    return torch.bincount(x[:, 0] * K + x[:, 1], minlength=K * K).reshape(K, K).double() / len(x)


class Exact:
    """The posterior p(data_i | x_t) of the law, in closed form. Label 1 stands for the law, 0 for the uniform one."""

    def __init__(self, path):
        self.path, self.asked = path, 0

    def null(self, cond):
        return torch.zeros_like(cond)

    def likelihood(self, x, t):
        """p(x_i at t | data_i = k), (B, 2, K)."""
        noise = torch.full((len(x), 2, K), 1 / K, dtype=torch.float64)
        if isinstance(self.path, MaskPath):
            noise = (x == K).double()[..., None].expand(-1, -1, K)
        hit = (x[..., None] == torch.arange(K)).double()
        return expand(t.double(), hit) * hit + (1 - expand(t.double(), hit)) * noise

    def __call__(self, x, t, cond=None):
        self.asked += 1
        like = self.likelihood(x, t)
        table = law().expand(len(x), K, K)
        if cond is not None:
            table = torch.where((cond == 1)[:, None, None], table, torch.full_like(table, 1 / K**2))
        joint = table * like[:, 0, :, None] * like[:, 1, None, :]
        joint = joint / joint.sum((1, 2), keepdim=True)
        return torch.stack([joint.sum(2), joint.sum(1)], dim=1).log()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().sum()) / 2


def floor(trials: int = 20) -> float:
    """Total variation distance of N true samples from the law, the largest of some."""
    return max(distance(counted(draw(N, 100 + seed)), law()) for seed in range(trials))


@each
def test_marginals_of_the_path(path):
    data, t = torch.zeros(N, 1, dtype=torch.int64) + 2, torch.full((N,), 0.3)
    x = path.corrupt(data, t, gen())
    share = 0.3 + (0.7 / K if isinstance(path, UniformPath) else 0.0)
    assert float((x == 2).double().mean()) == pytest.approx(share, abs=0.015)
    assert torch.equal(path.corrupt(data, torch.ones(N), gen()), data)
    noise = path.noise((N, 1), gen(), "cpu")
    if isinstance(path, MaskPath):
        assert path.tokens == K + 1 and bool((noise == K).all())
    else:
        shares = torch.bincount(noise.flatten(), minlength=K) / N
        torch.testing.assert_close(shares, torch.full((K,), 1 / K), rtol=0, atol=0.015)


@each
@pytest.mark.parametrize(
    ("method", "churn"), [("tau_leaping", 0.0), ("euler", 0.0), ("tau_leaping", 2.0), ("euler", 2.0)]
)
def test_samples_of_the_exact_posterior_are_of_the_law(path, method, churn):
    """As far from it as true samples are: the sampling error, with room for that of 200 steps."""
    net = Exact(path)
    flow = TokenSampler(net, path, gen(5), churn=churn, method=method)
    x = sample(flow, path.noise((N, 2), gen(4), "cpu"), torch.linspace(0, 1, 201))
    assert x.dtype == torch.int64 and flow.calls == net.asked == 200
    room = 0.02 if (method, churn) == ("euler", 2.0) else 0.004  # whose step is right to first order
    assert distance(counted(x), law()) < floor() + room
    assert distance(counted(draw(N)), law()) < floor() < 0.02  # and that is a small number


class OneToken:
    """The posterior of a single token whose law is known."""

    law = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)

    def __init__(self, path):
        self.path = path

    def __call__(self, x, t, cond=None):
        noise = (x == 3).double()[..., None] if isinstance(self.path, MaskPath) else torch.tensor(1 / 3)
        hit = (x[..., None] == torch.arange(3)).double()
        t = t.double()[:, None, None]
        return (self.law * (t * hit + (1 - t) * noise)).log()


@pytest.mark.parametrize("path", [MaskPath(3), UniformPath(3)], ids=repr)
@pytest.mark.parametrize("churn", [0.0, 2.0])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_single_token_is_drawn_right_in_any_number_of_steps(path, churn, steps):
    flow = TokenSampler(OneToken(path), path, gen(5), churn=churn)
    x = sample(flow, path.noise((N, 1), gen(4), "cpu"), torch.linspace(0, 1, steps + 1))
    torch.testing.assert_close(torch.bincount(x[:, 0]) / N, OneToken.law.float(), rtol=0, atol=0.011)


def test_guidance_brings_nothing_back_that_is_impossible():
    class Excludes:
        def null(self, cond):
            return torch.zeros_like(cond)

        def __call__(self, x, t, cond):
            logits = torch.zeros(*x.shape, K)
            logits[..., 1] = torch.where((cond == 0)[:, None], -math.inf, 0.0)
            return logits

    path = MaskPath(K)
    flow = TokenSampler(Excludes(), path, gen(5), guidance=2.0)
    x = sample(flow, path.noise((N, 1), gen(4), "cpu"), [0.0, 1.0], torch.ones(N, dtype=torch.int64))
    assert not bool((x == 1).any()) and len(x.unique()) == K - 1


@each
def test_few_steps_lose_what_the_tokens_know_of_each_other(path):
    """One step draws every position for itself: the product of the marginals, no better and no worse."""
    x = sample(TokenSampler(Exact(path), path, gen(5)), path.noise((N, 2), gen(4), "cpu"), [0.0, 1.0])
    product = law().sum(1)[:, None] * law().sum(0)
    assert distance(counted(x), product) < 0.02 < distance(counted(x), law())


@each
def test_marginals_along_the_way(path):
    """At t = 0.6 the chain is where the path is: the same shares as of corrupted data."""
    flow = TokenSampler(Exact(path), path, gen(5), churn=1.0)
    x = sample(flow, path.noise((N, 2), gen(4), "cpu"), torch.linspace(0, 0.6, 121))
    want = path.corrupt(draw(N), torch.full((N,), 0.6), gen(7))
    for position in range(2):
        shares = [torch.bincount(of[:, position], minlength=path.tokens) / N for of in (x, want)]
        torch.testing.assert_close(*shares, rtol=0, atol=0.015)


@each
def test_guidance_is_a_power_of_what_the_label_says(path):
    """In one step at w = 2 with a uniform law without label, every position is drawn from its marginal squared."""
    flow = TokenSampler(Exact(path), path, gen(5), guidance=2.0)
    x = sample(flow, path.noise((N, 2), gen(4), "cpu"), [0.0, 1.0], torch.ones(N, dtype=torch.int64))
    assert flow.calls == 2
    for position, marginal in enumerate((law().sum(1), law().sum(0))):
        want = marginal**2 / marginal.square().sum()
        torch.testing.assert_close(torch.bincount(x[:, position], minlength=K) / N, want.float(), rtol=0, atol=0.015)


@each
def test_the_loss_is_least_at_the_posterior(path):
    """Of the exact posterior it is the entropy that is left; of other answers it is more."""
    objective, data = TokenObjective(path), draw(N)
    exact = Exact(path)
    best = float(objective(exact, {"data": data}, gen(3)).mean())
    for bend in (0.5, 2.0):
        worse = float(objective(lambda x, t, c, bend=bend: bend * exact(x, t), {"data": data}, gen(3)).mean())
        assert worse > best + 0.01
    uniform = float(objective(lambda x, t, c: torch.zeros(*x.shape, K), {"data": data}, gen(3)).mean())
    # a third of the samples, t² on average, have no masked position left, and cost nothing
    assert uniform == pytest.approx(math.log(K) * (2 / 3 if isinstance(path, MaskPath) else 1), abs=0.015)


def test_masked_positions_alone_count():
    """Positions that x tells cost nothing, whatever the network says of them."""
    path, data = MaskPath(K), torch.ones(2000, 3, dtype=torch.int64)

    def net(x, t, cond):
        says = torch.where(x == K, 1, 0)  # right where it is masked, wrong where it is not
        return 50.0 * torch.nn.functional.one_hot(says, K)

    assert float(TokenObjective(path)(net, {"data": data}, gen()).max()) < 1e-6


def test_the_bound_is_tight_at_the_posterior():
    """With the true posterior the bound is −log p of every pair, and with another it is more."""
    net, pairs = Exact(PATHS[0]), torch.tensor([[0, 0], [1, 2], [3, 3]]).repeat_interleave(N, 0)
    found = token_bound(net, PATHS[0], pairs, None, gen(3), times=8).reshape(3, N)
    exact = -law()[pairs[::N, 0], pairs[::N, 1]].log()
    error = found.std(1) / N**0.5
    assert bool(((found.mean(1) - exact).abs() < 4 * error).all()) and bool((error < 0.1).all())

    def guess(x, t, cond):
        return torch.zeros(*x.shape, K)

    guessed = token_bound(guess, PATHS[0], pairs, None, gen(4), times=8)
    assert float(guessed.mean()) == pytest.approx(2 * math.log(K), abs=0.03)
    with pytest.raises(ValueError, match=r"bound of tokens by a UniformPath.*MaskPath"):
        token_bound(net, PATHS[1], pairs, None, gen(), 8)


def test_refusals():
    with pytest.raises(ValueError, match="levels=1"):
        MaskPath(1)
    with pytest.raises(ValueError, match="int64 tokens from 0 to 3"):
        MaskPath(K).corrupt(torch.full((2, 2), 4), torch.zeros(2), gen())
    with pytest.raises(ValueError, match="int64 tokens from 0 to 3"):
        MaskPath(K).corrupt(torch.zeros(2, 2), torch.zeros(2), gen())
    with pytest.raises(ValueError, match="churn=-1"):
        TokenProcess(churn=-1)
    with pytest.raises(ValueError, match="mask"):
        TokenProcess(path="masks")
    process = TokenProcess(levels=K)
    for settings in ({"solver": "heun"}, {"grid": "log_snr"}, {"path": "mask"}):
        with pytest.raises(ValueError, match="a solver of tau_leaping, euler"):
            process.configure(**settings)
    with pytest.raises(ValueError, match="steps=0"):
        process.configure(steps=0)
    with pytest.raises(ValueError, match="'eta'"):
        process.configure(options={"eta": 1.0})
    for logits in (torch.zeros(3, K), torch.zeros(3, 2, K + 1)):
        with pytest.raises(ValueError, match=r"expected \(3, 2, 4\)"):
            TokenObjective(MaskPath(K))(lambda x, t, c, of=logits: of, {"data": draw(3)}, gen())
    for wrong in ({"temperature": 0.0}, {"churn": "much"}):
        with pytest.raises(ValueError, match="a finite number"):
            TokenSampler(lambda *_: None, MaskPath(K), **wrong)


def test_a_process_draws_the_same_alone_and_among_others():
    process = TokenProcess(levels=K, steps=7)
    process.configure(options={"churn": 0.5})
    net = Exact(process.tokens)
    many, calls = process.draw(net, (5, 2), None, [gen(i) for i in range(5)])
    alone, _ = process.draw(net, (1, 2), None, [gen(3)])
    assert calls == 7 and torch.equal(many[3:4], alone)
    assert process.sampler == {"solver": "tau_leaping", "steps": 7, "grid": "uniform", "options": {"churn": 0.5}}
