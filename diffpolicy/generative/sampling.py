"""Time grids and the one sampling loop."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffpolicy.generative.paths import LOG_SNR_LIMIT, DiscretePath, Path
from diffpolicy.generative.predictions import Field
from diffpolicy.generative.shapes import Generators, randn
from diffpolicy.generative.solvers import Solver
from diffpolicy.util import names

GRIDS = ("uniform", "log_snr", "quadratic", "ddpm", "ddpm_trailing")


def time_grid(name: str, steps: int, path: Path, t_start: float = 0.0, t_end: float = 1.0) -> Tensor:
    """Increasing times (steps + 1,) float64 on the CPU, from noise to data.

    - uniform: evenly spaced in t;
    - log_snr: evenly spaced in λ between the λ of the ends, taken within ±LOG_SNR_LIMIT where it is beyond or
      infinite; the first and last time are t_start and t_end themselves;
    - quadratic: 1 − t evenly spaced in its root, dense near the data (the DDIM paper's quadratic spacing);
    - ddpm: `steps` of a DiscretePath's own N indices, "leading" as in the published policies: every
      (N // steps)-th index down to 0, then t = 1. The first one is then not N − 1 (unless steps = N);
    - ddpm_trailing: indices round(N − i·N/steps) − 1, which start at N − 1, then t = 1. Equal to uniform
      where steps divides N.

    Raises ValueError for an unknown name, steps < 1 (or > N on DDPM's indices), ends that are not
    0 ≤ t_start < t_end ≤ 1 (0 and 1 on DDPM's indices) or lie too close for `steps` different times;
    TypeError for DDPM's indices without a DiscretePath.
    """
    names.check("time grid", name, GRIDS)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be an integer >= 1, got {steps!r}")
    if not 0 <= t_start < t_end <= 1:
        raise ValueError(f"need 0 <= t_start < t_end <= 1 (noise is 0, data is 1), got {t_start} and {t_end}")
    if name.startswith("ddpm"):
        return _ddpm_grid(name, steps, path, t_start, t_end)
    # i/steps rather than a linspace, so that the times are those of DDPM's indices to the last digit
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    ends = torch.tensor([t_start, t_end], dtype=torch.float64)
    if name == "log_snr":
        low, high = path.log_snr(ends).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)
        times = path.time_at_log_snr(low + (high - low) * u)
    else:
        times = t_start + (t_end - t_start) * (u if name == "uniform" else 1 - (1 - u) ** 2)
    times[[0, -1]] = ends
    return _increasing(times)


def _ddpm_grid(name: str, steps: int, path: Path, t_start: float, t_end: float) -> Tensor:
    if not isinstance(path, DiscretePath):
        raise TypeError(f"the grid {name!r} needs a DiscretePath, got {path!r}; take 'uniform' or 'log_snr'")
    if steps > path.steps or (t_start, t_end) != (0, 1):
        raise ValueError(
            f"the grid {name!r} picks up to {path.steps} of the path's own indices between 0 and 1, got "
            f"steps={steps}, t_start={t_start}, t_end={t_end}; take 'uniform' or 'log_snr' for others"
        )
    i = torch.arange(steps)
    if name == "ddpm":
        index = (steps - 1 - i) * (path.steps // steps)
    else:
        index = (path.steps - i.double() * path.steps / steps).round() - 1
    return _increasing(torch.cat([path.time_at_index(index), torch.ones(1, dtype=torch.float64)]))


def _increasing(times: Tensor) -> Tensor:
    if not bool((times.diff() > 0).all() and times[0] >= 0 and times[-1] <= 1):
        raise ValueError(f"times must increase within [0, 1] (noise is 0, data is 1), got {times.tolist()}")
    return times


def no_graph(needs_grad: bool) -> AbstractContextManager[None]:
    """Inference mode, or no_grad where a field differentiates inside, which inference mode would forbid."""
    return torch.no_grad() if needs_grad else torch.inference_mode()


def sample(
    flow_map: Callable[..., Tensor],
    x: Tensor,
    times: Tensor | Sequence[float],
    cond: Any = None,
    trajectory: bool = False,
) -> Tensor:
    """The sampling loop: x (B, *shape) at times[0] carried through `times` by `flow_map(x, t, s, cond)`.

    Runs without autograd. Returns x at times[-1], (B, *shape), or with `trajectory` x at every time,
    (len(times), B, *shape).

    Raises ValueError for fewer than two times or times that do not increase within [0, 1].
    """
    times = torch.as_tensor(times, dtype=torch.float64).cpu()
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times must be one row of at least two values, got shape {tuple(times.shape)}")
    rows = _increasing(times).to(x.device)[:, None].expand(-1, x.shape[0])
    with no_graph(getattr(flow_map, "needs_grad", False)):
        states = [x]
        for t, s in pairwise(rows):
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
    grid: str = "uniform",
    cond: Any = None,
    generator: Generators = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw N(0, I) of `shape` (B, *rest) and sample: (B, *rest). `generator` also feeds a stochastic solver.

    Raises what `time_grid` and `Solver.bind` raise, and TypeError when `solver` is a name, not a solver.
    """
    if not isinstance(solver, Solver):
        raise TypeError(f"solver must be a Solver, got {solver!r}; make one with make_solver(name)")
    times = time_grid(grid, steps, path)
    x = randn(shape, generator, dtype=dtype, device=device)
    return sample(solver.bind(field, path, generator), x, times, cond)
