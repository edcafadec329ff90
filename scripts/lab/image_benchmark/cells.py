"""The reference benchmark's cells: guidance scale × solver × network calls, each measured once and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from diffpolicy.datasets.sources.mnist import CLASSES
from diffpolicy.images.drawing import draw_images
from diffpolicy.images.generator import ImageGenerator
from diffpolicy.images.metrics import Reference, assess, pooled
from diffpolicy.registry import build


@final
@dataclass(frozen=True)
class Sampler:
    """What a row of the table is drawn with: a solver as its users run it.

    Attributes:
        solver, grid: see `generative.solvers` and `generative.sampling`.
        steps: how many steps to take for so many evaluations of the field.
        path: on which to sample; None is the one that was trained on.
    """

    solver: str
    grid: str = "uniform"
    steps: Callable[[int], int] = int
    path: Mapping[str, Any] | None = None


FEWEST = 70  # digits of a cell: more than the classifier has features, and as many of each
_DDPM = {"name": "ddpm", "steps": 1000, "schedule": "squared_cosine"}

SAMPLERS = {
    "Euler": Sampler("euler"),
    "Heun": Sampler("heun", steps=lambda evaluations: (evaluations - 1) // 2),  # two a step, and one at the end
    "DDIM": Sampler("ddim", "ddpm_trailing", path=_DDPM),
    "DDPM": Sampler("ddpm", "ddpm_trailing", path=_DDPM),
    "DPM-Solver++ 2M": Sampler("dpmpp_2m", "log_snr"),
    "DPM-Solver++ 3M": Sampler("dpmpp_3m", "log_snr"),
    "Euler–Maruyama": Sampler("euler_maruyama"),
}


@final
@dataclass(frozen=True)
class Cell:
    """What is measured: `samples` images, drawn once for each of `seeds`, from the run called `run`."""

    run: str
    guidance: float
    sampler: str
    evaluations: int
    samples: int
    seeds: int

    @property
    def name(self) -> str:
        words = (self.run, f"w{self.guidance:g}", self.sampler, f"e{self.evaluations}", f"n{self.samples}")
        return "_".join(words).replace(" ", "-").replace("–", "-").replace("+", "p").lower()


def cells() -> Iterator[Cell]:
    """Of the whole table, the most telling first: the runs' main cells, then the grid at w = 3, then w = 1 and 5."""
    for guidance, evaluations in ((1.0, 20), (1.5, 10), (3.0, 10), (5.0, 10)):
        yield Cell("own", guidance, "DPM-Solver++ 2M", evaluations, 2000, 3)
    yield Cell("own", 3.0, "DPM-Solver++ 2M", 100, 2000, 1)
    for guidance, evaluations in ((1.0, 50), (3.0, 10), (3.0, 100), (5.0, 50)):
        yield Cell("own", guidance, "Euler", evaluations, 2000, 1)
    for guidance in (1.0, 3.0, 5.0):
        yield Cell("notes", guidance, "Euler", 99, 2000, 3)
    for sampler in SAMPLERS:
        for evaluations in (5, 10, 20, 50):
            yield Cell("own", 3.0, sampler, evaluations, 1000, 1)
    for guidance in (1.0, 5.0):
        for sampler in SAMPLERS:
            for evaluations in (10, 20):
                yield Cell("own", guidance, sampler, evaluations, 1000, 1)


def balanced(samples: int) -> Tensor:
    """Labels (samples,) int64, as many of each.

    Raises:
        ValueError: not a multiple of ten.
    """
    if samples < CLASSES or samples % CLASSES:
        raise ValueError(f"samples must be a multiple of {CLASSES}, as many of each digit; given {samples}")
    return torch.arange(CLASSES).repeat_interleave(samples // CLASSES)


def configure(generator: ImageGenerator, sampler: str, evaluations: int) -> None:
    """Let `generator` draw as the sampler of that name in `SAMPLERS` does, with so many evaluations of the field."""
    chosen = SAMPLERS[sampler]
    path = build("path", chosen.path) if chosen.path else generator.method.path
    generator.method.configure(chosen.solver, chosen.steps(evaluations), chosen.grid, path=path)


def measure_seed(
    cell: Cell,
    seed: int,
    generator: ImageGenerator,
    classifier: nn.Module,
    reference: Reference,
    precision: str,
    progress: str | None = None,
) -> dict[str, Any]:
    """The metrics of one draw of a cell, see `assess`, with its network calls and seconds."""
    configure(generator, cell.sampler, cell.evaluations)
    labels = balanced(cell.samples)
    began = time.perf_counter()
    images = draw_images(generator, labels, seed, cell.guidance, precision, progress=progress)
    seconds = time.perf_counter() - began
    return {
        "seed": seed,
        "network_calls": generator.calls,
        "seconds": seconds,
        **assess(classifier, images, labels, reference),
    }


def combined(cell: Cell, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row of the table from the draws of a cell, see `pooled`."""
    return {
        **asdict(cell),
        "seeds": len(rows),
        "network_calls": rows[0]["network_calls"],
        "seconds": sum(row["seconds"] for row in rows) / len(rows),
        **pooled(rows),
    }


def kept(file: Path, identity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The draws of a cell that were measured before, of the same checkpoints and settings; else none."""
    if not file.exists():
        return []
    before = json.loads(file.read_text())
    return before["draws"] if before["of"] == dict(identity) else []
