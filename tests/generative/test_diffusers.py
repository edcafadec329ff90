"""DDPM, DDIM and DPM-Solver++ against diffusers' schedulers, an independent implementation, in float64."""

import pytest
import torch

from diffpolicy.generative.paths import DiscretePath
from diffpolicy.generative.predictions import ModelField
from diffpolicy.generative.sampling import sample, time_grid
from diffpolicy.generative.solvers import make_solver

pytest.importorskip("diffusers", reason="diffusers is not installed; pip install 'diffpolicy[test]'")
from diffusers.schedulers import (
    scheduling_ddim,
    scheduling_ddpm,
    scheduling_dpmsolver_multistep,
)

N = 100
SCHEDULES = {
    "squared_cosine": (DiscretePath(N), {"beta_schedule": "squaredcos_cap_v2"}),
    "linear": (
        DiscretePath(N, "linear"),
        {"beta_schedule": "linear", "beta_start": 0.1 / N, "beta_end": 20.0 / N},
    ),
    "short_linear": (  # the published 1e-4 … 0.02 over 100 steps, which end far from pure noise
        DiscretePath(N, "linear", beta_min=1e-4 * N, beta_max=0.02 * N),
        {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    ),
}


class DoubleTorch:
    """torch, but whoever asks for float32 gets float64: the schedulers' tables and casts are float32."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True)
def double(monkeypatch):
    for module in (scheduling_ddim, scheduling_ddpm, scheduling_dpmsolver_multistep):
        monkeypatch.setattr(module, "torch", DoubleTorch())


def noise_net(x, t, cond=None, r=None):
    """Nonlinear, but near enough to x at t = 0 that the data estimate stays in scale there."""
    t = t.reshape(-1, *[1] * (x.ndim - 1))
    return (1 - 0.3 * t) * x + t * torch.sin(2 * x + 3 * t)


def theirs(scheduler, x, generator=None, **options):
    states = [x]
    for k in scheduler.timesteps:
        t = torch.full((len(x),), 1 - (int(k) + 1) / N, dtype=torch.float64)
        step = scheduler.step(noise_net(x, t), k, x, generator=generator, **options)
        x = step.prev_sample
        states.append(x)
    return torch.stack(states)


def ours(path, name, grid, steps, x, generator=None, **options):
    field = ModelField(noise_net, path, "noise")
    flow = make_solver(name, **options).bind(field, path, generator)
    out = sample(flow, x, time_grid(grid, steps, path), trajectory=True)
    assert flow.calls == steps
    return out


@pytest.fixture
def start():
    return torch.randn(5, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def close(a, b):
    """Every state of the run, to 1e-6 of the largest number in it."""
    assert a.shape == b.shape and b.dtype == torch.float64
    assert float((a - b).abs().max()) < 1e-6 * max(1.0, float(b.abs().max()))
    assert float((b[-1] - b[0]).abs().max()) > 0.1  # the run went somewhere


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_tables(schedule):
    path, options = SCHEDULES[schedule]
    table = scheduling_ddpm.DDPMScheduler(N, **options).alphas_cumprod
    torch.testing.assert_close(path.alpha_bar, table, rtol=1e-12, atol=0)


@pytest.mark.parametrize("grid", ["ddpm", "ddpm_trailing", "uniform"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddpm_over_all_steps(schedule, grid, start):
    path, options = SCHEDULES[schedule]
    scheduler = scheduling_ddpm.DDPMScheduler(N, clip_sample=False, **options)
    want = theirs(scheduler, start, torch.Generator().manual_seed(1))
    close(ours(path, "ddpm", grid, N, start, torch.Generator().manual_seed(1)), want)


@pytest.mark.parametrize(("spacing", "grid"), [("leading", "ddpm"), ("trailing", "ddpm_trailing")])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_10_of_100(schedule, eta, spacing, grid, start):
    path, options = SCHEDULES[schedule]
    scheduler = scheduling_ddim.DDIMScheduler(
        N, clip_sample=False, set_alpha_to_one=True, timestep_spacing=spacing, **options
    )
    scheduler.set_timesteps(10)
    want = theirs(scheduler, start, torch.Generator().manual_seed(1), eta=eta)
    close(ours(path, "ddim", grid, 10, start, torch.Generator().manual_seed(1), eta=eta), want)


@pytest.mark.parametrize("steps", [10, 20, 25])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_dpm_solver_2m(schedule, steps, start):
    path, options = SCHEDULES[schedule]
    scheduler = scheduling_dpmsolver_multistep.DPMSolverMultistepScheduler(
        N, solver_order=2, timestep_spacing="trailing", **options
    )
    scheduler.set_timesteps(steps)
    bars = scheduler.alphas_cumprod[scheduler.timesteps]  # numpy rounds these to float32
    scheduler.sigmas = torch.cat([((1 - bars) / bars).sqrt(), torch.zeros(1, dtype=torch.float64)])
    close(ours(path, "dpmpp_2m", "ddpm_trailing", steps, start), theirs(scheduler, start))
