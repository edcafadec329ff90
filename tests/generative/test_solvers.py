import math
from functools import lru_cache
from itertools import pairwise

import pytest
import torch
from mixture import ring

from diffpolicy.generative.mixture import ExactField, GaussianMixture
from diffpolicy.generative.paths import (
    CosinePath,
    DiscretePath,
    LinearPath,
    SquareRootPath,
    VarianceExplodingPath,
    VariancePreservingPath,
)
from diffpolicy.generative.predictions import Estimate, ModelField
from diffpolicy.generative.sampling import sample, time_grid
from diffpolicy.generative.solvers import SOLVERS, base, make_solver

SMOOTH = [LinearPath(), SquareRootPath(), CosinePath(), VariancePreservingPath(), VarianceExplodingPath(0.1, 5.0)]


def start(path, t, n=6, shape=(2,)):
    """Exact samples of x_t, and the field."""
    mixture = ring(shape)
    g = torch.Generator().manual_seed(0)
    data = mixture.sample(n, g)
    noise = torch.randn(data.shape, generator=g, dtype=torch.float64)
    t = torch.tensor(t, dtype=torch.float64)
    return path.alpha(t) * data + path.sigma(t) * noise, ExactField(mixture, path)


def slope(steps, errors):
    """Least-squares slope of −log error against log steps."""
    a, b = torch.tensor(steps).double().log(), -torch.tensor(errors).double().log()
    return float(((a - a.mean()) * (b - b.mean())).sum() / (a - a.mean()).square().sum())


@lru_cache
def reference(path):
    """x at 0.8 from `start(path, 0.2)`: RK4 with 640 steps, an error near 1e-11."""
    x, field = start(path, 0.2)
    return sample(make_solver("rk4").bind(field, path), x, time_grid("uniform", 640, path, 0.2, 0.8))


COUNTS = {
    "euler": (80, 160, 320),
    "ddim": (80, 160, 320),
    "heun": (40, 80, 160),
    "rk4": (20, 40, 80),
    "dpmpp_1s": (80, 160, 320),
    "dpmpp_2m": (40, 80, 160),
}


@pytest.mark.parametrize("path", SMOOTH, ids=repr)
@pytest.mark.parametrize("name", COUNTS)
def test_declared_order(name, path):
    t_start, t_end = 0.2, 0.8
    x, field = start(path, t_start)
    want = reference(path)
    solver, errors = make_solver(name), []
    for n in COUNTS[name]:
        flow = solver.bind(field, path)
        got = sample(flow, x, time_grid("uniform", n, path, t_start, t_end))
        assert flow.calls == n * solver.calls_per_step
        errors.append(float((got - want).abs().max()))
    assert slope(COUNTS[name], errors) == pytest.approx(solver.order, abs=0.15)


@pytest.mark.parametrize("path", [one for one in SMOOTH if not isinstance(one, VarianceExplodingPath)], ids=repr)
def test_declared_order_of_3m_from_an_exact_history(path):
    """The published cold start is of first order; fed with two exact states, what follows is of third."""
    t_start, t_end, counts, errors = 0.2, 0.8, (160, 320, 640), []
    x, field = start(path, t_start)
    want = reference(path)
    rk4, solver = make_solver("rk4").bind(field, path), make_solver("dpmpp_3m")
    for n in counts:
        times = time_grid("uniform", n, path, t_start, t_end)
        flow, state = solver.bind(field, path), x
        for i in range(2):
            t, s = times[i].expand(len(x)), times[i + 1].expand(len(x))
            flow(state, t, s)
            state = sample(rk4, state, torch.linspace(times[i], times[i + 1], 11, dtype=torch.float64))
        got = sample(flow, state, times[2:])
        errors.append(float((got - want).abs().max()))
    assert slope(counts, errors) == pytest.approx(solver.order, abs=0.15)


def test_declared_order_of_dopri5():
    """With a tolerance that accepts all, its inner steps are fixed fractions of a step."""
    path, (t_start, t_end), counts, errors = LinearPath(), (0.2, 0.8), (4, 8, 16), []
    x, field = start(path, t_start)
    want = reference(path)
    solver = make_solver("dopri5", rtol=1e6, atol=1e6)
    for n in counts:
        got = sample(solver.bind(field, path), x, time_grid("uniform", n, path, t_start, t_end))
        errors.append(float((got - want).abs().max()))
    assert slope(counts, errors) == pytest.approx(solver.order, abs=0.4)


@pytest.mark.parametrize("path", [one for one in SMOOTH if not isinstance(one, SquareRootPath)], ids=repr)
def test_dopri5_meets_its_tolerance(path):
    x, field = start(path, 0.0)
    fine = sample(make_solver("dopri5", rtol=1e-11, atol=1e-11).bind(field, path), x, [0.0, 1.0])
    for tol in (1e-4, 1e-6, 1e-8):
        got = sample(make_solver("dopri5", rtol=tol, atol=tol).bind(field, path), x, [0.0, 1.0])
        assert float((got - fine).abs().max()) < 30 * tol  # a global error sums a few local ones


# E x², E x³ of a Gaussian by its mean and variance (E x may be exact)
MOMENTS = (lambda m, v: v + m**2, lambda m, v: m**3 + 3 * m * v)


@pytest.mark.parametrize("g", ["sigma", 0.7, lambda t: 1 - t], ids=["sigma", "number", "function"])
@pytest.mark.parametrize("path", SMOOTH, ids=repr)
def test_weak_order_of_euler_maruyama(path, g, monkeypatch):
    """For Gaussian data a step is affine in (x, ξ), so the result's moments follow without sampling."""
    std, centre, (t_start, t_end), counts = 0.5, 0.8, (0.2, 0.8), (40, 80, 160)

    class Field:
        calls, needs_grad = 1, False

        def __init__(self):
            self.path = path

        def __call__(self, x, t, cond=None):
            a, s = path.alpha(t)[:, None], path.sigma(t)[:, None]
            v = (a * std) ** 2 + s**2
            return Estimate(centre + a * std**2 / v * (x - a * centre), s / v * (x - a * centre))

    ends = torch.tensor([t_start, t_end], dtype=torch.float64)
    means = path.alpha(ends) * centre
    variances = (path.alpha(ends) * std) ** 2 + path.sigma(ends) ** 2
    xi = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    monkeypatch.setattr(base, "randn", lambda *a, **k: xi)
    errors = []
    for n in counts:
        flow = make_solver("euler_maruyama", g=g).bind(Field(), path)
        mean, variance = means[0], variances[0]
        times = time_grid("uniform", n, path, t_start, t_end)
        for t, s in pairwise(times):
            probe = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
            constant, with_x, with_noise = flow(probe, t.expand(3), s.expand(3))[:, 0]
            a, c = with_x - constant, with_noise - constant
            mean, variance = constant + a * mean, a**2 * variance + c**2
        errors.append([abs(float(f(mean, variance) - f(means[1], variances[1]))) for f in MOMENTS])
    for moment in zip(*errors, strict=True):
        assert slope(counts, moment) == pytest.approx(1, abs=0.15)


def test_euler_maruyama_without_noise_is_euler():
    path = LinearPath()
    x, field = start(path, 0.0)
    times = time_grid("uniform", 9, path)
    got = sample(make_solver("euler_maruyama", g=0.0).bind(field, path), x, times)
    torch.testing.assert_close(got, sample(make_solver("euler").bind(field, path), x, times), rtol=0, atol=1e-12)


def test_ddim_is_euler_on_the_linear_path():
    """Exactly, up to the order of the operations, and whatever the network says."""
    path = LinearPath()
    x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    field = ModelField(lambda x, t, cond: torch.sin(3 * x) + t[:, None, None], path, "velocity")
    for steps in (1, 2, 7):
        times = time_grid("uniform", steps, path)
        a = sample(make_solver("ddim").bind(field, path), x, times, trajectory=True)
        b = sample(make_solver("euler").bind(field, path), x, times, trajectory=True)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_ddpm_is_the_posterior():
    """Mean and variance of Ho et al. 2020, eq. 7, at every index."""
    path, x = DiscretePath(20), torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    data = torch.tensor([[0.7, 0.1]], dtype=torch.float64)
    field = ModelField(lambda x, t, cond: data.expand_as(x), path, "data")
    bars, betas = path.alpha_bar, path.betas
    for k in range(1, 20):
        t, s = path.time_at_index(torch.tensor([k])), path.time_at_index(torch.tensor([k - 1]))
        mean = (
            bars[k - 1].sqrt() * betas[k] / (1 - bars[k]) * data
            + (1 - betas[k]).sqrt() * (1 - bars[k - 1]) / (1 - bars[k]) * x
        )
        std = (betas[k] * (1 - bars[k - 1]) / (1 - bars[k])).sqrt()
        xi = torch.randn(1, 2, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        got = make_solver("ddpm").bind(field, path, torch.Generator().manual_seed(k))(x, t, s)
        torch.testing.assert_close(got, mean + std * xi, rtol=0, atol=1e-12)


class EndWatcher:
    """A field that notes the noise level of every evaluation."""

    calls, needs_grad = 1, False

    def __init__(self, field):
        self.field, self.path, self.sigmas = field, field.path, []

    def __call__(self, x, t, cond=None):
        self.sigmas.append(float(self.path.sigma(t).min()))
        return self.field(x, t, cond)


@pytest.mark.parametrize("path", [*SMOOTH, DiscretePath(20)], ids=repr)
@pytest.mark.parametrize("name", sorted(set(SOLVERS) - {"ddpm_learned"}))
def test_no_field_is_evaluated_without_noise(name, path):
    x, field = start(path, 0.0)
    watcher = EndWatcher(field)
    got = sample(make_solver(name).bind(watcher, path), x, time_grid("uniform", 5, path))
    assert min(watcher.sigmas) > 0 and bool(got.isfinite().all())


def test_calls_of_the_last_step():
    for path in (LinearPath(), VariancePreservingPath()):
        x, field = start(path, 0.0)
        for name in ("euler", "heun", "rk4"):
            solver = make_solver(name)
            flow = solver.bind(field, path)
            sample(flow, x, time_grid("uniform", 4, path))
            assert flow.calls == 3 * solver.calls_per_step + 1


def test_guided_calls_count_twice():
    path = LinearPath()
    x, field = start(path, 0.0)
    watcher = EndWatcher(field)
    watcher.calls = 2
    flow = make_solver("heun").bind(watcher, path)
    flow(x, torch.full((6,), 0.1), torch.full((6,), 0.2))
    assert flow.calls == 4


def test_multistep_history_belongs_to_one_run():
    path = LinearPath()
    x, field = start(path, 0.0)
    times = time_grid("uniform", 6, path)
    solver = make_solver("dpmpp_3m")
    fresh = sample(solver.bind(field, path), x, times)
    used = solver.bind(field, path)
    sample(used, x, times[:4])
    assert torch.equal(sample(used, x, times), fresh)  # starts again at t = 0: the old history does not apply


@pytest.mark.parametrize("name", sorted(set(SOLVERS) - {"ddpm_learned"}))
def test_rows_do_not_depend_on_the_batch(name):
    """Also when rows go from and to times of their own."""
    path = LinearPath()
    x, field = start(path, 0.1, n=5)
    t = torch.tensor([0.1, 0.2, 0.1, 0.4, 0.0], dtype=torch.float64)
    m = torch.tensor([0.4, 0.5, 0.9, 0.6, 0.3], dtype=torch.float64)
    s = torch.tensor([1.0, 0.7, 1.0, 0.9, 0.5], dtype=torch.float64)

    def run(rows):
        gens = [torch.Generator().manual_seed(100 + i) for i in rows]
        flow = make_solver(name).bind(field, path, gens)
        return flow(flow(x[rows], t[rows], m[rows]), m[rows], s[rows])

    whole = run([0, 1, 2, 3, 4])
    for rows in ([0], [3, 1], [4, 2, 0]):
        torch.testing.assert_close(run(rows), whole[rows], rtol=0, atol=1e-13)


def test_dopri5_gives_up_with_a_word():
    path = LinearPath()
    x, field = start(path, 0.0, n=2)
    with pytest.raises(RuntimeError, match=r"samples \[0, 1\] are not done; raise max_steps"):
        sample(make_solver("dopri5", rtol=1e-9, atol=1e-9, max_steps=3).bind(field, path), x, [0.0, 1.0])
    bad = ModelField(lambda x, t, cond: torch.where(x > 0, x, math.nan), path, "velocity")
    with pytest.raises(FloatingPointError, match=r"samples \[1\]"):
        sample(make_solver("dopri5").bind(bad, path), torch.tensor([[1.0], [-1.0]]), [0.0, 1.0])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("eular", {}, r"unknown solver 'eular' \(did you mean 'euler'"),
        ("ddim", {"ets": 1.0}, r"unknown option of solver ddim 'ets' \(did you mean 'eta'"),
        ("ddpm", {"eta": 0.5}, "unknown option of solver ddpm 'eta'"),
        ("heun", {"rtol": 1e-3}, r"unknown option of solver heun 'rtol'; choose from none"),
        ("ddim", {"eta": 1.5}, r"expected a number in \[0, 1\]"),
        ("ddim", {"eta": math.nan}, r"expected a number in \[0, 1\]"),
        ("dopri5", {"rtol": 0.0}, "rtol=0.0.*expected positive numbers"),
        ("euler_maruyama", {"g": -1.0}, "finite number >= 0"),
        ("euler_maruyama", {"g": "sigmo"}, "did you mean 'sigma'"),
    ],
)
def test_refused_options(name, options, words):
    with pytest.raises(ValueError, match=words):
        make_solver(name, **options)


def test_refused_times_and_paths():
    path = LinearPath()
    x, field = start(path, 0.0, n=2)
    flow = make_solver("dpmpp_2m").bind(field, path)
    half = torch.full((2,), 0.5)
    for t, s in ((half, half), (half, half - 0.1), (half[:1], half + 0.1), (half, half * math.nan)):
        with pytest.raises(ValueError, match="expected t < s"):
            flow(x, t, s)
    with pytest.raises(ValueError, match="expected the field's own path"):
        make_solver("euler").bind(field, CosinePath())


def test_orders_and_kinds_are_declared():
    for name in SOLVERS:
        solver = make_solver(name)
        assert solver.order >= 1 and solver.calls_per_step >= 1
        assert solver.stochastic == (name in ("ddpm", "ddpm_large", "ddpm_learned", "euler_maruyama"))
    assert make_solver("ddim", eta=0.1).stochastic


def test_the_large_variance_is_exact_for_data_of_variance_one():
    """N(0, I) stays N(0, I) at every step, however few they are; with the small variance it shrinks."""
    path = DiscretePath(100)
    law = GaussianMixture(torch.zeros(1, 1).double(), torch.ones(1).double(), torch.ones(1).double())
    field, x = ExactField(law, path), torch.randn(40_000, 1, generator=torch.Generator().manual_seed(0)).double()
    widths = {}
    for name in ("ddpm", "ddpm_large"):
        flow = make_solver(name).bind(field, path, torch.Generator().manual_seed(1))
        states = sample(flow, x, time_grid("uniform", 5, path), trajectory=True)
        widths[name] = states[1:-1].std((1, 2))
    torch.testing.assert_close(widths["ddpm_large"], torch.ones(4).double(), rtol=0, atol=0.015)
    assert float(widths["ddpm"].min()) < 0.8


def test_the_large_variance_step_by_step():
    """mean of the posterior + √β_k·ξ, at every index but the last, which adds nothing."""
    path = DiscretePath(20, "linear", 0.02, 4.0)
    x, field = start(path, 0.0)
    bars, betas = path.alpha_bar, path.betas
    for k in (19, 7, 1, 0):
        t, s = (path.time_at_index(torch.full((len(x),), i)) for i in (k, k - 1))
        got = make_solver("ddpm_large").bind(field, path, torch.Generator().manual_seed(k))(x, t, s)
        data, bar = field(x, t).data, bars[k - 1] if k else torch.tensor(1.0).double()
        mean = bar.sqrt() * betas[k] / (1 - bars[k]) * data
        mean = mean + (1 - betas[k]).sqrt() * (1 - bar) / (1 - bars[k]) * x
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(k), dtype=x.dtype)
        torch.testing.assert_close(got, mean + (betas[k].sqrt() if k else 0) * noise)
