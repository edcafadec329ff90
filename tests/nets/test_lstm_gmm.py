"""The recurrent mixture of Gaussians: its density against torch's, its draws, and what a step may see."""

import pytest
import torch
from torch import distributions

from diffpolicy.nets.lstm_gmm import DiagonalMixture, LSTMGaussianMixture


def _mixture(*leading, modes=5, dim=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*leading, modes, generator=generator, dtype=torch.float64)
    means, stds = torch.randn(2, *leading, modes, dim, generator=generator, dtype=torch.float64)
    return DiagonalMixture(logits.log_softmax(-1), means, stds.abs() + 1e-3)


def test_the_density_is_that_of_torchs_mixture():
    mixture = _mixture(4, 7)
    parts = distributions.Independent(distributions.Normal(mixture.means, mixture.stds), 1)
    reference = distributions.MixtureSameFamily(distributions.Categorical(logits=mixture.log_weights), parts)
    x = torch.randn(4, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mixture.log_prob(x), reference.log_prob(x))


def test_draws_are_of_the_mixture():
    """Shares of the modes, and mean and spread within each, which lie far apart."""
    weights, means = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([[-10.0, 0.0], [0.0, 5.0], [10.0, 0.0]])
    stds = torch.tensor([[0.1, 0.2], [0.3, 0.1], [0.5, 0.5]])
    mixture = DiagonalMixture(weights.log(), means, stds)
    mixture = DiagonalMixture(*(part.expand(20_000, *part.shape) for part in vars(mixture).values()))
    generator = torch.Generator().manual_seed(0)
    uniform, normal = torch.rand(20_000, generator=generator), torch.randn(20_000, 2, generator=generator)
    drawn = mixture.draw(uniform, normal)
    mode = (drawn[:, None] - means).norm(dim=-1).argmin(1)
    for k in range(3):
        own = drawn[mode == k]
        assert len(own) / 20_000 == pytest.approx(float(weights[k]), abs=0.015)
        torch.testing.assert_close(own.mean(0), means[k], atol=0.03, rtol=0)
        torch.testing.assert_close(own.std(0), stds[k], atol=0, rtol=0.05)
    torch.testing.assert_close(mixture.draw(uniform, normal, 1e-4), means[mode] + 1e-4 * normal)


def test_the_ends_of_the_uniform_numbers_pick_the_first_and_the_last_mode():
    mixture = DiagonalMixture(torch.full((10,), 0.1).log(), torch.arange(10.0)[:, None], torch.ones(10, 1))
    below_one = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    assert [mixture.draw(u, torch.zeros(1)).item() for u in (torch.tensor(0.0), below_one)] == [0, 9]


def test_a_step_sees_the_observations_up_to_it():
    torch.manual_seed(0)
    net = LSTMGaussianMixture(2, 3, hidden=8)
    cond = torch.randn(4, 6, 3)
    other = cond.clone()
    other[:, 3] += 1
    for before, after in zip(vars(net(cond)).values(), vars(net(other)).values(), strict=True):
        torch.testing.assert_close(before[:, :3], after[:, :3])
        assert ((before - after)[:, 3:].abs().amax(dim=-1) > 0).all()


def _lstm_runs_in_bfloat16():
    try:
        with torch.autocast("cpu", torch.bfloat16):
            torch.nn.LSTM(2, 2)(torch.zeros(1, 1, 2))
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("autocast", [False, True])
def test_parameters_in_their_ranges_and_in_full_precision(autocast):
    torch.manual_seed(0)
    net = LSTMGaussianMixture(2, 3, hidden=8, modes=4, min_std=0.01)
    with torch.no_grad():
        net.head.bias.copy_(100 * torch.randn(len(net.head.bias)))
    if autocast and not _lstm_runs_in_bfloat16():
        pytest.skip("torch has no LSTM in bfloat16 for this CPU")
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        mixture = net(torch.randn(5, 6, 3))
    assert mixture.log_weights.shape == (5, 6, 4) and mixture.means.shape == mixture.stds.shape == (5, 6, 4, 2)
    assert {part.dtype for part in vars(mixture).values()} == {torch.float32}
    torch.testing.assert_close(mixture.log_weights.exp().sum(-1), torch.ones(5, 6))
    assert mixture.means.abs().max() <= 1 and mixture.stds.min() >= 0.01
    assert mixture.log_prob(torch.zeros(5, 6, 2)).isfinite().all()


@pytest.mark.parametrize("options", [{"hidden": 0}, {"layers": 0}, {"modes": 0}, {"min_std": 0.0}])
def test_sizes_that_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}=0.*expected positive"):
        LSTMGaussianMixture(2, 3, **options)
