import math
from functools import lru_cache

import pytest
import torch
from mixture import ExactNet, ring

from diffpolicy.generative.distances import sliced_wasserstein
from diffpolicy.generative.mixture import ExactField
from diffpolicy.generative.paths import (
    CosinePath,
    DiscretePath,
    LinearPath,
    SquareRootPath,
    VarianceExplodingPath,
    VariancePreservingPath,
)
from diffpolicy.generative.predictions import PREDICTIONS, FlowMap, ModelField
from diffpolicy.generative.sampling import GRIDS, generate, sample, time_grid
from diffpolicy.generative.solvers import SOLVERS, base, make_solver

PATHS = [
    LinearPath(),
    SquareRootPath(),
    CosinePath(),
    VariancePreservingPath(),
    VarianceExplodingPath(0.1, 5.0),
    DiscretePath(100),
    DiscretePath(100, "linear"),
]
SHAPES = {(2,): 2000, (16, 2): 1000, (1, 32, 32): 200}  # and how many samples


def gen(seed):
    return torch.Generator().manual_seed(seed)


@lru_cache
def tolerance(shape):
    """A perfect sampler's samples lie as far from an exact set as two independent exact sets from each other, so
    allow the largest of ten such distances (a typical one is about three quarters of it), and half as much again
    for the solver's own error at 50 steps."""
    mixture, n = ring(shape), SHAPES[shape]
    return 1.5 * max(
        sliced_wasserstein(mixture.sample(n, gen(2 * i + 50)), mixture.sample(n, gen(2 * i + 51))) for i in range(10)
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", sorted(set(SOLVERS) - {"ddpm_learned"}))
def test_every_solver_samples_the_target(name, shape):
    mixture, n, path = ring(shape), SHAPES[shape], LinearPath()
    steps = 5 if name == "dopri5" else 50
    got = generate(
        ExactField(mixture, path), path, make_solver(name), (n, *shape), steps, generator=gen(7), dtype=torch.float64
    )
    exact, limit = mixture.sample(n, gen(3)), tolerance(shape)
    assert sliced_wasserstein(got, exact) < limit
    # the test can fail: a single Gaussian of the same mean and spread is well outside
    normal = torch.randn(exact.shape, generator=gen(8), dtype=torch.float64)
    assert sliced_wasserstein(normal * exact.std(0) + exact.mean(0), exact) > limit


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("name", sorted(set(SOLVERS) - {"ddpm_learned"}))
def test_every_solver_on_every_path(name, path):
    mixture, n = ring((2,)), 2000
    steps = 5 if name == "dopri5" else 50
    field = ExactField(mixture, path)
    got = generate(field, path, make_solver(name), (n, 2), steps, generator=gen(7), dtype=torch.float64)
    assert sliced_wasserstein(got, mixture.sample(n, gen(3))) < tolerance((2,))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("grid", ["uniform", "log_snr", "quadratic"])
def test_every_prediction_on_every_grid(grid, prediction):
    mixture, n, path = ring((2,)), 2000, CosinePath()
    field = ModelField(ExactNet(ExactField(mixture, path), prediction), path, prediction)
    got = generate(field, path, make_solver("heun"), (n, 2), 30, grid, generator=gen(7), dtype=torch.float64)
    assert sliced_wasserstein(got, mixture.sample(n, gen(3))) < tolerance((2,))


@pytest.mark.parametrize("name", sorted(set(SOLVERS) - {"ddpm_learned"}))
def test_float32_follows_float64(name, monkeypatch):
    path, mixture = LinearPath(), ring((2,))
    x = torch.randn(8, 2, generator=gen(0), dtype=torch.float64)
    times = time_grid("uniform", 10, path)

    def run(x):
        field = ExactField(mixture.to(x.dtype), path)
        return sample(make_solver(name).bind(field, path), x, times)

    # the same noise for both
    xi = torch.randn(10, 8, 2, generator=gen(1), dtype=torch.float64)
    results = []
    for dtype in (torch.float32, torch.float64):
        draws = iter(xi.to(dtype))
        monkeypatch.setattr(base, "randn", lambda *a, draws=draws, **k: next(draws))
        results.append(run(x.to(dtype)))
    assert results[0].dtype == torch.float32
    torch.testing.assert_close(results[0].double(), results[1], rtol=0, atol=2e-4)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("grid", GRIDS)
def test_grids(grid, path):
    if grid.startswith("ddpm") and not isinstance(path, DiscretePath):
        with pytest.raises(TypeError, match="expected a DiscretePath"):
            time_grid(grid, 10, path)
        return
    for steps in (1, 2, 7, 100):
        times = time_grid(grid, steps, path)
        assert times.shape == (steps + 1,) and times.dtype == torch.float64
        assert bool((times.diff() > 0).all()) and times[-1] == 1
        assert times[0] == 0 or grid == "ddpm"


def test_grids_are_what_they_say():
    path = DiscretePath(100)
    lam = path.log_snr(time_grid("log_snr", 8, path, 0.1, 0.9))
    torch.testing.assert_close(lam.diff(), lam.diff().mean().expand(8), rtol=1e-9, atol=0)
    lam = LinearPath().log_snr(time_grid("log_snr", 7, LinearPath()))[1:-1]
    torch.testing.assert_close(lam, torch.linspace(-5, 5, 6, dtype=torch.float64), rtol=0, atol=1e-9)
    root = (1 - time_grid("quadratic", 6, path)).sqrt()
    torch.testing.assert_close(root, torch.linspace(1, 0, 7, dtype=torch.float64), rtol=0, atol=1e-9)
    leading = path.time_at_index(torch.tensor([90, 80, 70, 60, 50, 40, 30, 20, 10, 0, -1]))
    torch.testing.assert_close(time_grid("ddpm", 10, path), leading, rtol=0, atol=0)
    trailing = path.time_at_index(torch.tensor([99, 66, 32, -1]))  # 100 − {0, 33⅓, 66⅔}, rounded, − 1
    torch.testing.assert_close(time_grid("ddpm_trailing", 3, path), trailing, rtol=0, atol=0)
    torch.testing.assert_close(
        time_grid("ddpm_trailing", 20, path), time_grid("uniform", 20, path), rtol=0, atol=1e-15
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("uniform", 0), "steps=0; expected an integer >= 1"),
        (("uniform", -3), "steps=-3; expected an integer >= 1"),
        (("uniform", 2.0), "steps=2.0; expected an integer"),
        (("uniform", True), "steps=True; expected an integer"),
        (("unifrom", 3), "did you mean 'uniform'"),
        (("uniform", 3, 0.5, 0.5), "t_start < t_end"),
        (("uniform", 3, -0.1, 1.0), "t_start < t_end"),
        (("uniform", 3, 0.0, math.nan), "t_start < t_end"),
        (("log_snr", 3, 0.9999, 1.0), "expected times that increase"),
        (("ddpm", 101), "up to 100 steps from 0 to 1, the path's own indices"),
        (("ddpm_trailing", 10, 0.1), "up to 100 steps from 0 to 1, the path's own indices"),
    ],
)
def test_refused_grids(arguments, words):
    name, steps, *ends = arguments
    with pytest.raises(ValueError, match=words):
        time_grid(name, steps, DiscretePath(100), *ends)


def test_one_loop_for_any_flow_map():
    seen = []

    class OneStep(FlowMap):
        def __call__(self, x, t, s, cond=None):
            seen.append((t.shape, t.dtype, float(t[0]), float(s[0]), cond))
            assert torch.is_inference_mode_enabled()
            return x + 1

    x = torch.zeros(3, 2)
    path = sample(OneStep(), x, [0.0, 0.25, 1.0], cond="c", trajectory=True)
    assert torch.equal(path, torch.stack([x, x + 1, x + 2]))
    assert seen == [((3,), torch.float64, 0.0, 0.25, "c"), ((3,), torch.float64, 0.25, 1.0, "c")]
    final = sample(OneStep(), x, torch.tensor([0.0, 1.0]))
    assert torch.equal(final, x + 1)
    weight = torch.ones(2, requires_grad=True)
    (final * weight).sum().backward()  # an inference tensor would refuse
    assert torch.equal(weight.grad, torch.full((2,), 3.0))


@pytest.mark.parametrize("times", [[0.0], [], [0.0, 0.0], [0.5, 0.2], [0.0, 1.1], [-0.1, 1.0], [0.0, math.nan]])
def test_refused_times(times):
    field = ExactField(ring((2,)), LinearPath())
    with pytest.raises(ValueError, match=r"times that increase|times of shape .* at least two"):
        sample(make_solver("dpmpp_2m").bind(field, field.path), torch.zeros(1, 2), times)


def test_generate_wants_a_solver():
    field = ExactField(ring((2,)), LinearPath())
    with pytest.raises(TypeError, match="make_solver"):
        generate(field, field.path, "euler", (4, 2), 3)


@pytest.mark.parametrize("name", ["ddpm", "euler_maruyama", "heun"])
def test_a_row_keeps_its_sample_in_any_batch(name):
    field = ExactField(ring((2,)), LinearPath())

    def run(rows):
        gens = [gen(1000 + i) for i in rows]
        return generate(field, field.path, make_solver(name), (len(rows), 2), 8, generator=gens)

    whole = run(range(7))
    for rows in ([3], [6, 0], [1, 2, 3, 4]):
        torch.testing.assert_close(run(rows), whole[list(rows)], rtol=0, atol=1e-6)
    assert torch.equal(run(range(7)), whole)
