"""A generative process as one object: what is learned (path, prediction, objective) and how it is sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

from torch import Tensor, nn

from diffpolicy.generative.guidance import ClipData, OnPath
from diffpolicy.generative.paths import DiscretePath, Path
from diffpolicy.generative.predictions import Field, ModelField
from diffpolicy.generative.sampling import sample, time_grid
from diffpolicy.generative.shapes import Generators
from diffpolicy.generative.solvers import make_solver
from diffpolicy.generative.times import make_objective
from diffpolicy.generative.variance import check_solver, check_variance


@final
class GenerativeProcess(nn.Module):
    """Path, prediction, objective and sampler, for targets of any shape and any network.

    A module, so that the model that holds it holds the state of its objective, if that has any.

    Args:
        path: the probability path.
        prediction: what the network outputs, see `predictions`.
        times: how training draws t, one of `weighting.TIMES`, or "loss_aware", see `times.LossAware`.
        weighting: weights of the loss, see `objectives`.
        condition_dropout: probability with which training drops a condition.
        learned_variance: of a network with twice the outputs, which `solver="ddpm_learned"` takes, see `variance`.
        solver: name of the sampler's solver, see `solvers`.
        steps: number of the sampler's steps.
        grid: name of the sampler's time grid, see `sampling`; None is the solver's own, or "uniform". One that is
            named here stays when the solver changes.
        solver_options: options of the solver, for example {"eta": 0.5}.
        clip: bound of the data estimate while sampling; None does not clip.

    Raises:
        ValueError: unknown names or options that do not fit together.
    """

    def __init__(
        self,
        path: Path,
        prediction: str,
        times: str = "uniform",
        weighting: str = "native",
        condition_dropout: float = 0.0,
        learned_variance: bool = False,
        solver: str = "euler",
        steps: int = 10,
        grid: str | None = None,
        solver_options: Mapping[str, Any] | None = None,
        clip: float | None = None,
    ) -> None:
        super().__init__()
        check_variance(learned_variance, path)
        self.path, self.prediction, self.learned_variance, self.clip = path, prediction, learned_variance, clip
        self.objective = make_objective(path, prediction, times, weighting, condition_dropout, learned_variance)
        self.sampling_path = path
        options = dict(solver_options or {})
        self._grid = grid
        self._sampler: dict[str, Any] = {"solver": solver, "steps": steps, "grid": None, "options": options}
        self.configure()

    @property
    def sampler(self) -> dict[str, Any]:
        """The sampler's settings: solver, steps, grid, options."""
        return dict(self._sampler)

    def configure(
        self,
        solver: str | None = None,
        steps: int | None = None,
        grid: str | None = None,
        options: Mapping[str, Any] | None = None,
        path: Path | None = None,
    ) -> None:
        """Change the sampler without retraining; None keeps what was set.

        Args:
            solver: name of a solver; another one than before drops options and grid that were set: the grid is again
                the one that the process was made with, or the solver's own, or "uniform".
            steps: number of steps.
            grid: name of a time grid. If None, a grid of DDPM's indices that has too few steps becomes "uniform".
            options: options of the solver.
            path: the path to sample on, if not the one of training, see `OnPath`.

        Raises:
            ValueError: unknown names or options that do not fit together.
        """
        chosen = dict(self._sampler)
        if solver is not None and solver != chosen["solver"]:
            chosen |= {"solver": solver, "options": {}, "grid": None}
        if options is not None:
            chosen["options"] = dict(options)
        if steps is not None:
            chosen["steps"] = steps
        path = path or self.sampling_path
        made = make_solver(chosen["solver"], **chosen["options"])
        check_solver(made, self.learned_variance and path == self.path)
        chosen["grid"] = grid or chosen["grid"] or self._grid or made.grid or "uniform"
        too_few = isinstance(path, DiscretePath) and chosen["steps"] > path.steps
        if grid is None and too_few and chosen["grid"].startswith("ddpm"):
            chosen["grid"] = "uniform"  # between its indices the path interpolates
        try:
            times = time_grid(chosen["grid"], chosen["steps"], path)
        except TypeError as error:  # a grid of another path's
            raise ValueError(str(error)) from None
        self.solver, self.times, self.sampling_path, self._sampler = made, times, path, chosen

    def loss(self, net: nn.Module, batch: Mapping[str, Any], generator: Generators) -> Tensor:
        """Return the loss (B,) of a batch, see `objectives`."""
        return self.objective(net, batch, generator)

    def field(self, net: nn.Module, guide: Callable[[Field], Field] | None = None, path: Path | None = None) -> Field:
        """Return the network's field, guided and then clipped, so that what guidance overshoots is clipped too.

        Args:
            net: the network.
            guide: wraps the field, see `guidance`; None leaves it as it is.
            path: the path of the field; None is the sampler's.
        """
        field: Field = ModelField(net, self.path, self.prediction, self.learned_variance)
        path = path or self.sampling_path
        if path != self.path:
            field = OnPath(field, path)
        field = field if guide is None else guide(field)
        return field if self.clip is None else ClipData(field, -self.clip, self.clip)

    def draw(
        self, field: Field, x: Tensor, cond: Any, generators: Generators, trajectory: bool = False
    ) -> tuple[Tensor, int]:
        """Return samples from noise x (B, *shape), and the number of network calls.

        Args:
            field: from `field`.
            x: (B, *shape), on the sampling path at the first of the sampler's times.
            cond: the condition.
            generators: the noise of a stochastic solver.
            trajectory: return x at every time, see `sample`.
        """
        flow = self.solver.bind(field, self.sampling_path, generators)
        return sample(flow, x, self.times, cond, trajectory), flow.calls
