"""Time grids and the one sampling loop."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffpolicy.generative.paths import LOG_SNR_LIMIT, DiscretePath, Path
from diffpolicy.generative.predictions import Field, FlowMap
from diffpolicy.generative.shapes import Generators, randn
from diffpolicy.generative.solvers import Solver
from diffpolicy.util import names
from diffpolicy.util.device import precise_dtype
from diffpolicy.util.errors import explain, require

GRIDS = ("uniform", "log_snr", "quadratic", "ddpm", "ddpm_trailing")


def time_grid(name: str, steps: int, path: Path, t_start: float = 0.0, t_end: float = 1.0) -> Tensor:
    """Return increasing times (steps + 1,) float64 on the CPU, from noise to data.

    - uniform: evenly spaced in t;
    - log_snr: evenly spaced in λ between the λ of the ends, taken within ±LOG_SNR_LIMIT where it is beyond or
      infinite; the first and last time are t_start and t_end themselves;
    - quadratic: 1 − t evenly spaced in its root, dense near the data (the DDIM paper's quadratic spacing);
    - ddpm: `steps` of a DiscretePath's own N indices, "leading" as in the published policies: every (N // steps)-th
      index down to 0, then t = 1. The first one is then not N − 1 (unless steps = N);
    - ddpm_trailing: indices round(N − i·N/steps) − 1, from N − 1 on, then t = 1: uniform where steps divides N.

    Raises:
        ValueError: an unknown name, steps < 1 (or > N on DDPM's indices), ends that are not 0 ≤ t_start < t_end ≤ 1
            (0 and 1 on DDPM's indices) or lie too close for `steps` different times.
        TypeError: DDPM's indices without a DiscretePath.
    """
    names.check("time grid", name, GRIDS)
    whole = isinstance(steps, int) and not isinstance(steps, bool) and steps >= 1
    require(whole, f"steps={steps!r}", "an integer >= 1")
    ends = f"t_start={t_start}, t_end={t_end}"
    require(0 <= t_start < t_end <= 1, ends, "0 <= t_start < t_end <= 1 (noise is 0, data is 1)")
    if name.startswith("ddpm"):
        cure = "sample on one (images: path.name=ddpm path.steps=1000), or take grid=uniform"
        require(isinstance(path, DiscretePath), f"grid={name!r} on {path!r}", "a DiscretePath", cure, TypeError)
        within = steps <= path.steps and (t_start, t_end) == (0, 1)
        expected = f"up to {path.steps} steps from 0 to 1, the path's own indices"
        require(within, f"grid={name!r} with steps={steps}, {ends}", expected, "take grid=uniform")
        return _increasing(_ddpm_grid(name, steps, path))
    # i/steps rather than a linspace, so that the times are those of DDPM's indices to the last digit
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    both = torch.tensor([t_start, t_end], dtype=torch.float64)
    if name == "log_snr":
        low, high = path.log_snr(both).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)
        times = path.time_at_log_snr(low + (high - low) * u)
    else:
        times = t_start + (t_end - t_start) * (u if name == "uniform" else 1 - (1 - u) ** 2)
    times[[0, -1]] = both
    return _increasing(times)


def _ddpm_grid(name: str, steps: int, path: DiscretePath) -> Tensor:
    i = torch.arange(steps)
    if name == "ddpm":
        index = (steps - 1 - i) * (path.steps // steps)
    else:
        index = (path.steps - i.double() * path.steps / steps).round() - 1
    return torch.cat([path.time_at_index(index), torch.ones(1, dtype=torch.float64)])


def _increasing(times: Tensor) -> Tensor:
    steps = times.diff(dim=0)
    increases = (steps > 0).all() if times.ndim == 1 else (steps >= 0).all()
    if not bool(increases and (times[0] >= 0).all() and (times[-1] <= 1).all()):
        expected = "times that increase within [0, 1] (noise is 0, data is 1)"
        raise ValueError(explain(f"times={times.tolist()}", expected))
    return times


def no_graph(needs_grad: bool) -> AbstractContextManager[None]:
    """Return inference mode, or no_grad where a field differentiates inside, which inference mode would forbid."""
    return torch.no_grad() if needs_grad else torch.inference_mode()


def sample(
    flow_map: FlowMap, x: Tensor, times: Tensor | Sequence[float], cond: Any = None, trajectory: bool = False
) -> Tensor:
    """Return x carried through `times` by a flow map, without autograd. This is the only sampling loop.

    Args:
        flow_map: from a solver (`Solver.bind`), or a network that is one; it may be given times on the CPU.
        x: (B, *shape), at times[0].
        times: (n,) for all samples alike, or (n, B) for each its own, or (n, B, T) for every step of each its own.
        cond: the condition, which the flow map hands to the network.
        trajectory: return x at every time, (n, B, *shape), in place of the last, (B, *shape).

    Raises:
        ValueError: fewer than two times, another shape, or times that do not increase within [0, 1]; those of a
            reversible flow map may decrease, and carry data to noise.
    """
    times = torch.as_tensor(times, dtype=torch.float64).cpu()
    fits = times.ndim in (1, 2, 3) and len(times) >= 2 and times.shape[1:] == x.shape[: times.ndim - 1]
    require(fits, f"times of shape {tuple(times.shape)}", "(n,), (n, B) or (n, B, T), with n at least two values")
    back = times.ndim < 3 and bool((times[0] > times[-1]).all())
    if back and not flow_map.reversible:
        cure = "take solver=euler, heun, rk4 or ddim"
        raise ValueError(explain("this sampler goes from noise to data alone", "times that increase", cure))
    times = _increasing(times.flip(0)).flip(0) if back else _increasing(times)
    # those of one sample stay on the CPU, see `shapes`
    times = times if len(x) == 1 else times.to(x.device, precise_dtype(x.device))
    times = times[:, None].expand(-1, x.shape[0]) if times.ndim == 1 else times
    with no_graph(flow_map.needs_grad):
        states = [x]
        for t, s in pairwise(times):
            x = flow_map(x, t, s, cond)
            states = [*states, x] if trajectory else states
    # copied outside, so that no inference tensor, which autograd refuses, leaves this function
    return torch.stack([state.clone() for state in states]) if trajectory else x.clone()


def generate(
    field: Field,
    path: Path,
    solver: Solver,
    shape: Sequence[int],
    steps: int,
    grid: str | None = None,
    cond: Any = None,
    generator: Generators = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    start: Tensor | None = None,
) -> Tensor:
    """Return samples (B, *rest) of a field, from noise or from samples of the law that it was taught to start from.

    Args:
        field: the field to follow.
        path: its path.
        solver: from `make_solver`.
        shape: (B, *rest).
        steps: number of steps.
        grid: name of a time grid, see `time_grid`; None is the solver's own, or "uniform".
        cond: the condition, which the field hands to its network.
        generator: draws the initial noise and that of a stochastic solver.
        dtype: dtype of the samples.
        device: device of the samples.
        start: (B, *rest), in place of noise; they bring their own dtype and device.

    Raises:
        ValueError: what `time_grid` and `Solver.bind` raise.
        TypeError: `solver` is a name, not a solver.
    """
    require(isinstance(solver, Solver), f"solver={solver!r}", "a Solver", "call make_solver(name)", TypeError)
    times = time_grid(grid or solver.grid or "uniform", steps, path)
    if start is None:
        start = path.start_scale * randn(shape, generator, dtype=dtype, device=device)
    given = f"start of shape {tuple(start.shape)}"
    require(start.shape == tuple(shape), given, f"{tuple(shape)}, the shape of the samples")
    return sample(solver.bind(field, path, generator), start, times, cond)
