"""A generative method as one object: what is learned (path, prediction, objective) and how it is drawn from.

It is the section `method` of a run's config, for targets of any shape and any network.
"""

from collections.abc import Callable, Mapping
from typing import Any, final

from torch import Tensor, nn

from diffpolicy.generative.guidance import ClipData
from diffpolicy.generative.objectives import DenoisingObjective
from diffpolicy.generative.paths import DiscretePath, Path
from diffpolicy.generative.predictions import Field, ModelField, OnPath
from diffpolicy.generative.sampling import sample, time_grid
from diffpolicy.generative.shapes import Generators
from diffpolicy.generative.solvers import make_solver


@final
class Method:
    """Path, prediction, objective and sampler.

    Args:
        path: the probability path.
        prediction: what the network outputs, see `predictions`.
        times, weighting, condition_dropout: of the objective, see `objectives`.
        solver, steps, grid: of the sampler, see `solvers` and `sampling`.
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
        solver: str = "euler",
        steps: int = 10,
        grid: str = "uniform",
        solver_options: Mapping[str, Any] | None = None,
        clip: float | None = None,
    ) -> None:
        self.path, self.prediction, self.clip = path, prediction, clip
        self.objective = DenoisingObjective(path, prediction, times, weighting, condition_dropout)
        self.sampling_path = path
        self._sampler: dict[str, Any] = {
            "solver": solver,
            "steps": steps,
            "grid": grid,
            "options": dict(solver_options or {}),
        }
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
        """Change how is drawn, without retraining; None keeps what was set.

        Args:
            path: on which to sample, where it is not to be the one that was trained on, see `OnPath`.

        Raises:
            ValueError: unknown names or options that do not fit together.
        """
        chosen = dict(self._sampler)
        if solver is not None and solver != chosen["solver"]:
            chosen |= {"solver": solver, "options": {}}  # another solver's options mean nothing to this one
        if options is not None:
            chosen["options"] = dict(options)
        if steps is not None:
            chosen["steps"] = steps
        path = path or self.sampling_path
        if grid is not None:
            chosen["grid"] = grid
        elif isinstance(path, DiscretePath) and chosen["steps"] > path.steps and chosen["grid"].startswith("ddpm"):
            chosen["grid"] = "uniform"  # DDPM's own indices are too few; between them the path interpolates
        made = make_solver(chosen["solver"], **chosen["options"])
        try:
            times = time_grid(chosen["grid"], chosen["steps"], path)
        except TypeError as error:  # a grid of another path's
            raise ValueError(str(error)) from None
        self.solver, self.times, self.sampling_path, self._sampler = made, times, path, chosen

    def loss(self, net: nn.Module, batch: Mapping[str, Any], generator: Generators) -> Tensor:
        """(B,), see `DenoisingObjective`."""
        return self.objective(net, batch, generator)

    def field(self, net: nn.Module, guide: Callable[[Field], Field] | None = None, path: Path | None = None) -> Field:
        """The network's field on `path` (None: the sampling path), guided and then clipped, so that what guidance
        overshoots is clipped too."""
        field: Field = ModelField(net, self.path, self.prediction)
        path = path or self.sampling_path
        if path != self.path:
            field = OnPath(field, path)
        field = field if guide is None else guide(field)
        return field if self.clip is None else ClipData(field, -self.clip, self.clip)

    def draw(
        self,
        field: Field,
        x: Tensor,
        cond: Any,
        generators: Generators,
        trajectory: bool = False,
        times: Tensor | None = None,
    ) -> tuple[Tensor, int]:
        """From noise x (B, *shape) to data, and the number of network calls; see `sample`.

        `times` other than the sampler's own are for an x on the sampling path at the first of them.
        """
        flow = self.solver.bind(field, self.sampling_path, generators)
        return sample(flow, x, self.times if times is None else times, cond, trajectory), flow.calls
