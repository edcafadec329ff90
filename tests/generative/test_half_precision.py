"""Devices without float64, as Apple's GPUs, and half precision."""

import pytest
import torch
from apple import DEVICE, AppleGPU

from diffpolicy.generative import likelihood, sampling
from diffpolicy.generative.flow_maps import AverageVelocity, MeanFlowObjective
from diffpolicy.generative.likelihood import variational_bound
from diffpolicy.generative.objectives import DenoisingObjective
from diffpolicy.generative.paths import (
    CosinePath,
    DiscretePath,
    LinearPath,
    SquareRootPath,
    VarianceExplodingPath,
    VariancePreservingPath,
)
from diffpolicy.generative.predictions import ModelField
from diffpolicy.generative.sampling import generate, sample
from diffpolicy.generative.shapes import expand, rand
from diffpolicy.generative.solvers import make_solver
from diffpolicy.generative.weighting import TIMES, WEIGHTINGS
from diffpolicy.util import device as devices

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


def net(x, t, cond=None, r=None):
    """Some network whose output depends on all of its inputs."""
    assert t.dtype == (torch.float32 if x.dtype == torch.bfloat16 else x.dtype)
    return torch.tanh(x) * expand(1 + t, x) + (0 if r is None else expand(r, x))


@pytest.fixture
def apple(monkeypatch):
    monkeypatch.setattr(devices, "WITHOUT_FLOAT64", {DEVICE.type})
    for module in (sampling, likelihood):  # inference mode has no views of a tensor subclass
        monkeypatch.setattr(module, "no_graph", lambda needs_grad: torch.no_grad())
    with AppleGPU():
        yield DEVICE


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_sampling_without_float64(path, apple):
    for name in ("euler", "heun", "dopri5", "ddpm", "dpmpp_3m", "euler_maruyama"):
        made = make_solver(name, **({"rtol": 0.1, "atol": 0.1} if name == "dopri5" else {}))
        for grid in ("uniform", "log_snr") if name == "euler" else ("uniform",):
            steps = 2 if name == "dopri5" else 4  # each of which it divides as it needs
            settings = {"shape": (4, 3, 2), "steps": steps, "grid": grid}
            on = [
                generate(ModelField(net, path, "v"), path, made, generator=gen(), device=device, **settings)
                for device in ("cpu", apple)
            ]
            bound = 0.1 if name == "dopri5" else 1e-3  # its steps may differ, within its tolerance
            torch.testing.assert_close(on[1].cpu(), on[0], rtol=bound, atol=bound / 5, msg=name)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_losses_without_float64(path, apple):
    data = torch.randn(8, 3, 2, generator=gen(1))
    for times in TIMES:
        if times == "discrete" and not isinstance(path, DiscretePath):
            continue
        for weighting in ("native", *WEIGHTINGS):
            loss = DenoisingObjective(path, "v", times, weighting)
            on = [loss(net, {"data": data.to(device)}, gen()) for device in ("cpu", apple)]
            torch.testing.assert_close(on[1].cpu(), on[0], rtol=1e-3, atol=1e-5)


def test_other_parts_without_float64(apple):
    data = torch.randn(8, 3, 2, generator=gen(1))
    field = ModelField(net, DiscretePath(5), "noise")
    on = [variational_bound(field, data.to(device), generator=gen()).total for device in ("cpu", apple)]
    torch.testing.assert_close(on[1].cpu(), on[0], rtol=1e-3, atol=1e-3)
    on = [sample(AverageVelocity(net), data.to(device), [0.0, 0.3, 1.0]) for device in ("cpu", apple)]
    torch.testing.assert_close(on[1].cpu(), on[0], rtol=1e-5, atol=1e-6)
    objective = MeanFlowObjective(LinearPath(), span_fraction=0.0)
    on = [objective(net, {"data": data.to(device)}, gen()) for device in ("cpu", apple)]
    torch.testing.assert_close(on[1].cpu(), on[0], rtol=1e-5, atol=1e-6)


def test_the_device_of_these_tests_refuses_float64(apple):
    with pytest.raises(TypeError, match="float64"):
        torch.zeros(2, device=apple).double()
    with pytest.raises(TypeError, match="float64"):
        rand((2,), gen(), dtype=torch.float64, device=apple)
    assert devices.precise_dtype(apple) == torch.float32 and devices.precise_device(apple).type == "cpu"
    assert devices.precise_dtype("cpu") == torch.float64 and devices.precise_device("cpu").type == "cpu"


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("name", ["euler", "heun", "rk4", "ddim", "dpmpp_2m", "euler_maruyama"])
def test_sampling_in_bfloat16_is_within_five_percent(path, name):
    """Times stay precise; the state is rounded in every step."""
    noise, times = torch.randn(64, 3, 2, generator=gen()).bfloat16(), [0.0, 0.25, 0.5, 1.0]
    rough, exact = (
        sample(make_solver(name).bind(ModelField(net, path, "v"), path, gen(1)), noise.to(dtype), times)
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert rough.dtype == torch.bfloat16
    if name == "euler_maruyama":  # its noise is another in another dtype
        assert rough.isfinite().all()
    else:
        assert (rough.float() - exact).norm() < 0.05 * exact.norm()
