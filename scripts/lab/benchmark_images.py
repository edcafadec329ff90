"""The reference benchmark of guided image generation: trains, samples, and writes the table and its plots:

python scripts/lab/benchmark_images.py --runs runs --out docs/results/images

Digits by the 6.S184 notes' recipe and by our own, judged by a classifier that is trained first: guidance scale ×
solver × network calls. What is there already, a run or a cell of the table, is not made again; stopped anywhere, the
same command goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import asdict
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from diffpolicy import checkpoint
from diffpolicy.datasets.sources.mnist import CLASSES, load_mnist
from diffpolicy.evaluation.report import provenance
from diffpolicy.images import load_generator
from diffpolicy.images.classifier import load_classifier, train_classifier
from diffpolicy.images.density import bits_per_dimension
from diffpolicy.images.metrics import Reference, shuffled
from diffpolicy.training.log import read_metrics
from diffpolicy.util.files import write_json
from image_benchmark.cells import FEWEST, SAMPLERS, Cell, cells, combined, kept, measure_seed
from image_benchmark.plots import draw_benchmark
from image_benchmark.tables import grid, recipes

RUNS = {"notes": ["task=mnist_notes"], "own": ["task=mnist"]}

# What each part of our recipe is worth, at about two minutes of one core each: runs of RUNS' kind, cut short.
_SHORT = ["task=mnist", "images.dequantize=false", "training.warmup_steps=50"]
_PLAIN = [*_SHORT, "method=flow"]
_PATCH_2 = ["net.patch=2", "net.widths=[64,128]"]
ABLATION = {
    "patch_2": [*_PLAIN, *_PATCH_2, "training.steps=265"],
    "patch_2_one_layer": [*_PLAIN, *_PATCH_2, "net.layers=1", "training.steps=520"],
    "patch_4": [*_PLAIN, "training.steps=440"],
    "patch_4_rate_1e-3": [*_PLAIN, "training.steps=440", "training.lr=1e-3"],
    "patch_4_logit_normal": [*_SHORT, "training.steps=440"],
}
DENSITY = {"steps": 50, "probes": 4, "indices": 1000}
ABLATION_CELL = {"guidance": 3.0, "sampler": "Euler", "evaluations": 20, "samples": 500, "seeds": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the trained runs: RUNS/mnist_own …")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), help="leave the other recipe out")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the samples of a cell (default 1)")
    parser.add_argument("--max-seeds", type=int, default=3, help="of sampling, at most (default 3)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16", help="while sampling")
    parser.add_argument("--training", nargs="*", default=[], help="settings of both trainings, as diffpolicy-train's")
    parser.add_argument("--device", default="cpu", help="where networks run while sampling (default cpu)")
    parser.add_argument("--ablation", action="store_true", help="measure what our recipe's parts are worth instead")
    parser.add_argument("--shard", default="0/1", help="I/N: measure every N-th cell only, with N processes at once")
    arguments = parser.parse_args()
    shard, shards = _shard(parser, arguments.shard)
    if not 0 < arguments.scale <= 1 or arguments.max_seeds < 1:
        parser.error("--scale lies in (0, 1], and --max-seeds is at least 1")
    every = [scaled(cell, arguments.scale) for cell in cells()]
    if (fewest := min(cell.samples for cell in every)) < FEWEST:
        parser.error(
            f"--scale {arguments.scale:g} leaves {fewest} digits in a cell; a Fréchet distance takes {FEWEST}"
        )
    if arguments.ablation and (shards > 1 or arguments.scale < 1):
        parser.error("--ablation is made whole, by one process: leave --scale and --shard out")
    for folder in (arguments.runs, arguments.out):
        if folder.exists() and not folder.is_dir():
            parser.error(f"--runs and --out take folders, and {folder} is a file; choose another name")
    settings = {"precision": arguments.precision, "device": arguments.device, "training": arguments.training}
    bench = Benchmark(arguments.runs, arguments.out, alone=shards == 1, **settings)
    try:
        if arguments.ablation:
            print(f"the ablation: {bench.ablation()}")
            return
        mine = [cell for cell in every if cell.run in arguments.only][shard::shards]
        for seed in range(arguments.max_seeds):  # every cell once before any of them again
            for cell in mine:
                if seed < cell.seeds:
                    bench.measure(cell, seed)
        if shards == 1:
            for run in arguments.only:
                bench.likelihood(run)
            print(f"the table: {bench.report(every)}")
    except (ValueError, OSError, checkpoint.CheckpointError, subprocess.CalledProcessError) as error:
        sys.exit(f"benchmark_images: {type(error).__name__}: {error}")


def _shard(parser: argparse.ArgumentParser, text: str) -> tuple[int, int]:
    try:
        shard, shards = (int(part) for part in text.split("/"))
    except ValueError:
        shard, shards = 0, 0
    if not 0 <= shard < shards:
        parser.error(f"--shard takes I/N with 0 ≤ I < N, 0/2 and 1/2 for example; given {text}")
    return shard, shards


def scaled(cell: Cell, scale: float) -> Cell:
    """The cell with a share of its samples, as many of each digit."""
    samples = max(CLASSES, round(scale * cell.samples / CLASSES) * CLASSES)
    return Cell(**{**asdict(cell), "samples": samples})


class Benchmark:
    """The runs, what judges them, and where the results are kept."""

    def __init__(self, runs: Path, out: Path, precision: str, device: str, training: list[str], alone: bool) -> None:
        self.runs, self.out, self.precision, self.device = runs, out, precision, device
        self.training, self.alone = training, alone
        (out / "cells").mkdir(parents=True, exist_ok=True)
        self.checkpoint = cache(self._checkpoint)
        self.generator = cache(lambda run: load_generator(self.checkpoint(run).path, device=device))
        self.reference = cache(self._reference)

    def _checkpoint(self, run: str) -> checkpoint.Checkpoint:
        """The trained run's last checkpoint; it is trained, or its training gone on with, first."""
        folder = self.runs / f"mnist_{run}"
        recipe = (RUNS | ABLATION)[run]
        settings = [*recipe, f"run_dir={folder}", "resume=true", *self.training]
        if not self._trained(run):
            self._check_alone(folder)
            subprocess.run([sys.executable, "-m", "diffpolicy", "train", *settings], check=True)
        return checkpoint.read(folder / "checkpoints" / "last")

    def _trained(self, run: str) -> bool:
        saved = checkpoint.latest(self.runs / f"mnist_{run}" / "checkpoints")
        return saved is not None and saved.step >= saved.config["training"]["steps"]

    def _check_alone(self, folder: Path) -> None:
        if not self.alone:
            sys.exit(f"{folder} is not trained yet, and several processes would train it at once: leave --shard out")

    @property
    def classifier_path(self) -> Path:
        return self.runs / "mnist_classifier" / "checkpoints" / "last"

    def classifier(self) -> nn.Module:
        if not self.classifier_path.exists():
            self._check_alone(self.classifier_path.parents[1])
            train_classifier(self.classifier_path.parents[1], load_mnist("train"), load_mnist("test"), resume=True)
        return load_classifier(self.classifier_path, self.device)

    def _reference(self, samples: int) -> tuple[nn.Module, Reference]:
        classifier = self.classifier()
        return classifier, Reference.draw(classifier, load_mnist("test"), samples // CLASSES)

    def measure(self, cell: Cell, seed: int) -> None:
        """One draw of a cell, unless it was measured before."""
        classifier, reference = self.reference(cell.samples)
        file = self.out / "cells" / f"{cell.name}.json"
        of = self._identity(cell)
        draws = kept(file, of)
        if any(draw["seed"] == seed for draw in draws):
            return
        row = measure_seed(
            cell, seed, self.generator(cell.run), classifier, reference, self.precision, f"{cell.name}, seed {seed}"
        )
        draws = sorted([*draws, row], key=lambda draw: draw["seed"])
        write_json(file, {"of": of, "cell": asdict(cell), "draws": draws, "floor": reference.floor, **provenance()})

    def _identity(self, cell: Cell) -> dict[str, Any]:
        judge = checkpoint.read(self.classifier_path).sha256["ema.safetensors"]
        made = self.checkpoint(cell.run).sha256["ema.safetensors"]
        sampler = asdict(SAMPLERS[cell.sampler]) | {"steps": SAMPLERS[cell.sampler].steps(cell.evaluations)}
        return {"generator": made, "classifier": judge, "precision": self.precision, "sampler": sampler}

    def likelihood(self, run: str) -> None:
        """Bits per dimension of 100 test digits, unless measured before."""
        file = self.out / f"likelihood_{run}.json"
        of = {"generator": self.checkpoint(run).sha256["ema.safetensors"], **DENSITY}
        if kept(file, of):
            return
        found = bits_per_dimension(self.generator(run), shuffled(load_mnist("test")).per_class(10), **DENSITY)
        write_json(file, {"of": of, "draws": [found], **provenance()})

    def ablation(self) -> Path:
        """`ablation.json`, one row for each of `ABLATION`."""
        rows = []
        for run, recipe in ABLATION.items():
            cell = Cell(run=run, **ABLATION_CELL)
            self.measure(cell, 0)
            draws = kept(self.out / "cells" / f"{cell.name}.json", self._identity(cell))
            rows.append({**combined(cell, draws), "settings": recipe, "steps": self.checkpoint(run).step})
        write_json(self.out / "ablation.json", {"rows": rows, "cell": ABLATION_CELL, **provenance()})
        return self.out / "ablation.json"

    def report(self, wanted: list[Cell]) -> Path:
        """`benchmark.json`, `table.md` and the plots, of all cells that are measured."""
        rows, floors = [], {}
        for cell in wanted:
            file = self.out / "cells" / f"{cell.name}.json"
            if self._trained(cell.run) and (draws := kept(file, self._identity(cell))):
                rows.append(combined(cell, draws))
                floors[cell.samples] = self.reference(cell.samples)[1].floor
        training = {run: self._training(run) for run in dict.fromkeys(row["run"] for row in rows)}
        judge = checkpoint.read(self.classifier_path)
        result = {
            "rows": rows,
            "floors": {str(n): floor for n, floor in floors.items()},
            "training": training,
            "classifier": {"test_accuracy": judge.state["best"][0][0], "steps": judge.step},
            "precision": self.precision,
            **provenance(),
        }
        write_json(self.out / "benchmark.json", result)
        draw_benchmark(self.out, result)
        (self.out / "table.md").write_text(f"{recipes(result)}\n\n{grid(result)}\n")
        return self.out / "table.md"

    def _training(self, run: str) -> dict[str, Any]:
        saved = self.checkpoint(run)
        log = read_metrics(self.runs / f"mnist_{run}" / "metrics.jsonl")
        parameters = sum(p.numel() for p in self.generator(run).parameters())
        return {
            "steps": saved.step,
            "speed": saved.state["speed"],
            "minutes": _minutes([row["seconds"] for row in log]),
            "parameters": parameters,
            "config": {name: saved.config[name] for name in ("net", "method", "images")},
        }


def _minutes(seconds: list[float]) -> float:
    """What a log's times come to, without the pauses: an interval of over five times the median counts as it."""
    gaps = [later - earlier for earlier, later in pairwise(sorted(seconds)) if later > earlier]
    usual = median(gaps) if gaps else 0.0
    return (seconds[0] + sum(usual if gap > 5 * usual else gap for gap in gaps)) / 60


if __name__ == "__main__":
    main()
