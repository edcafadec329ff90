"""The cells of the image benchmark: guidance scale × solver × network calls, each measured once and stored."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffpolicy.config import SamplerConfig
from diffpolicy.datasets.sources.mnist import CLASSES
from diffpolicy.generative.process import GenerativeProcess
from diffpolicy.images import ImageGenerator
from diffpolicy.images.drawing import draw_images
from diffpolicy.images.metrics import Reference, assess, pooled
from diffpolicy.registry import build
from diffpolicy.util.errors import require

FEWEST = 70  # digits of a cell: more than the classifier has features, and as many of each


@dataclass(frozen=True)
class Sampler:
    """What the images of a cell are drawn with.

    Args:
        solver: see `generative.solvers`; None where steps are all that can be chosen.
        grid: see `generative.sampling`; None is the only one.
        steps: number of evaluations of the network -> number of steps.
        path: to sample on; None is the one that was trained on.
    """

    solver: str | None
    grid: str | None = "uniform"
    steps: Callable[[int], int] = int
    path: Mapping[str, Any] | None = None


_DDPM = {"name": "ddpm", "steps": 1000, "schedule": "squared_cosine"}

FIELD_SAMPLERS = {
    "Euler": Sampler("euler"),
    "Heun": Sampler("heun", steps=lambda evaluations: (evaluations + 1) // 2),  # two per step, and one for the last
    "DDIM": Sampler("ddim", "ddpm_trailing", path=_DDPM),
    "DDPM": Sampler("ddpm", "ddpm_trailing", path=_DDPM),
    "DPM-Solver++ 2M": Sampler("dpmpp_2m", "log_snr"),
    "DPM-Solver++ 3M": Sampler("dpmpp_3m", "log_snr"),
    "Euler–Maruyama": Sampler("euler_maruyama"),
}
SAMPLERS = FIELD_SAMPLERS | {"jumps": Sampler(None, None), "tau-leaping": Sampler("tau_leaping", None)}


@dataclass(frozen=True)
class Cell:
    """What is measured.

    Args:
        run: name of the trained run.
        guidance: scale w of classifier-free guidance.
        sampler: name of a sampler, see `SAMPLERS`.
        evaluations: of the network per image, each two calls where it is guided.
        samples: images per draw.
        seeds: number of draws.
    """

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
    """Yield all cells: the main ones of our recipe, of the notes' and of the other ways, then the grid of solvers."""
    for guidance, evaluations in ((1.0, 20), (1.5, 10), (3.0, 10), (5.0, 10)):
        yield Cell("own", guidance, "DPM-Solver++ 2M", evaluations, 2000, 3)
    yield Cell("own", 3.0, "DPM-Solver++ 2M", 100, 2000, 1)
    for guidance, evaluations in ((1.0, 50), (3.0, 10), (3.0, 100), (5.0, 50)):
        yield Cell("own", guidance, "Euler", evaluations, 2000, 1)
    for evaluations in (10, 20):
        yield Cell("own", 1.0, "DDPM", evaluations, 2000, 3)
    for guidance in (1.0, 1.5, 3.0, 5.0):
        yield Cell("notes", guidance, "Euler", 99, 2000, 3)
    for run in ("dit", "latent"):
        for guidance, evaluations in ((1.0, 20), (1.5, 10), (2.0, 10), (3.0, 10)):
            yield Cell(run, guidance, "DPM-Solver++ 2M", evaluations, 2000, 3)
    for evaluations in (1, 2, 4, 10):
        yield Cell("mean_flow", 1.5, "jumps", evaluations, 2000, 3)
    for run in ("discrete", "binary"):
        for guidance, evaluations in ((1.0, 50), (1.5, 25), (3.0, 25)):
            yield Cell(run, guidance, "tau-leaping", evaluations, 2000, 3)
    for sampler in FIELD_SAMPLERS:
        for evaluations in (5, 10, 20, 50):
            yield Cell("own", 3.0, sampler, evaluations, 1000, 1)
    for guidance in (1.0, 5.0):
        for sampler in FIELD_SAMPLERS:
            for evaluations in (10, 20):
                yield Cell("own", guidance, sampler, evaluations, 1000, 1)


def scaled(cell: Cell, scale: float) -> Cell:
    """Return the cell with a fraction of its samples, as many of each digit."""
    return replace(cell, samples=max(CLASSES, round(scale * cell.samples / CLASSES) * CLASSES))


def balanced(samples: int) -> Tensor:
    """Return labels (samples,) int64, as many of each digit.

    Raises:
        ValueError: `samples` is no multiple of ten.
    """
    require(samples > 0 and samples % CLASSES == 0, f"samples={samples}", f"a multiple of {CLASSES}")
    return torch.arange(CLASSES).repeat_interleave(samples // CLASSES)


def configure(generator: ImageGenerator, sampler: str, evaluations: int) -> None:
    """Let a generator sample by one of `SAMPLERS`, with so many evaluations of the network."""
    chosen = SAMPLERS[sampler]
    path = generator.method.path if isinstance(generator.method, GenerativeProcess) else None
    path = build("path", chosen.path) if chosen.path else path
    generator.configure(SamplerConfig(chosen.solver, chosen.steps(evaluations), chosen.grid), path)


def measure_seed(
    cell: Cell,
    seed: int,
    generator: ImageGenerator,
    classifier: nn.Module,
    reference: Reference,
    precision: str,
    progress: str | None = None,
) -> dict[str, Any]:
    """Return the metrics of one draw of a cell, see `assess`, with its network calls and seconds."""
    configure(generator, cell.sampler, cell.evaluations)
    labels = balanced(cell.samples)
    began = time.perf_counter()
    images, calls = draw_images(generator, labels, seed, cell.guidance, precision, progress=progress)
    seconds = time.perf_counter() - began
    judged = assess(classifier, images, labels, reference)
    return {"seed": seed, "network_calls": calls, "seconds": seconds, **judged}


def combined(cell: Cell, draws: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the result of a cell from its draws, see `pooled`."""
    return {
        **asdict(cell),
        "seeds": len(draws),
        "network_calls": draws[0]["network_calls"],
        "seconds": sum(draw["seconds"] for draw in draws) / len(draws),
        **pooled(draws),
    }


def stored_draws(file: Path, identity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the draws in a file if they are of these checkpoints and settings, else none."""
    if not file.exists():
        return []
    stored = json.loads(file.read_text())
    return stored["draws"] if stored["of"] == stored["of"] | dict(identity) else []
