"""The work of the image benchmark: train what is missing, draw, judge, store."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from diffpolicy import checkpoint, train_policy
from diffpolicy.config import load_config
from diffpolicy.datasets.sources.mnist import CLASSES, load_mnist
from diffpolicy.evaluation.report import provenance
from diffpolicy.generative.discrete import TokenProcess
from diffpolicy.images import load_generator
from diffpolicy.images.classifier import load_classifier, train_classifier
from diffpolicy.images.density import bits_per_dimension, token_bits
from diffpolicy.images.metrics import Reference, shuffled
from diffpolicy.training.log import read_metrics
from diffpolicy.util import files
from diffpolicy.util.errors import require
from image_benchmark.cells import SAMPLERS, Cell, combined, measure_seed, stored_draws
from image_benchmark.plots import draw_benchmark
from image_benchmark.tables import grid, recipes

RUNS = {
    "notes": ["task=mnist_notes"],
    "own": ["task=mnist"],
    "dit": ["task=mnist", "net=dit2d", "net.width=128", "training.steps=4500"],
    "latent": ["task=mnist_latent", "images.autoencoder={runs}/mnist_autoencoder"],
    "mean_flow": ["task=mnist", "method=mean_flow", "images.guidance=1.5", "images.dequantize=false"],
    "discrete": ["task=mnist", "method=discrete", "training.steps=5000"],
    "binary": ["task=mnist", "method=discrete", "method.levels=2", "training.steps=3000"],
}
AUTOENCODER = {"autoencoder": ["task=mnist_autoencoder"]}
NEEDS = {"latent": "autoencoder"}  # what a run is trained upon
DENSITIES = ("notes", "own", "dit", "discrete", "binary")  # the runs of which bits per dimension exist

# What each part of our recipe is worth, at about two minutes of one core each: short trainings like those of RUNS.
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
ABLATION_CELL = {"guidance": 3.0, "sampler": "Euler", "evaluations": 20, "samples": 500, "seeds": 1}
DENSITY = {"steps": 50, "probes": 4, "indices": 1000}
TOKEN_DENSITY = {"times": 100}
_PAUSE = 5.0  # times the usual interval of a log: so long, a training was stopped


class Benchmark:
    """The trained runs, the classifier that judges their images, and the folder of the results.

    Args:
        runs: folder of the trained runs.
        out: folder of the results.
        precision: of the networks while sampling.
        device: where they run while sampling.
        training: further settings of all trainings.
        alone: False while other processes measure beside this one, which then trains nothing.
    """

    def __init__(
        self, runs: Path, out: Path, precision: str, device: str, training: Sequence[str], alone: bool = True
    ) -> None:
        self.runs, self.out, self.precision, self.device = runs, out, precision, device
        self.training, self.alone = training, alone
        self.checkpoint = cache(self._checkpoint)
        self.generator = cache(lambda run: load_generator(self.checkpoint(run).path, device=device))
        self.reference = cache(self._reference)

    def measure(self, cell: Cell, seed: int) -> None:
        """Draw and judge the images of a cell, unless that is stored."""
        classifier, reference = self.reference(cell.samples)
        of = self._identity(cell)
        draws = stored_draws(self._file(cell), of)
        if any(draw["seed"] == seed for draw in draws):
            return
        generator, says = self.generator(cell.run), f"{cell.name}, seed {seed}"
        made = measure_seed(cell, seed, generator, classifier, reference, self.precision, says)
        draws = sorted([*draws, made], key=lambda draw: draw["seed"])
        content = {"of": of, "cell": asdict(cell), "draws": draws, "floor": reference.floor, **provenance()}
        files.write_json(self._file(cell), content)

    def likelihood(self, run: str) -> None:
        """Compute the bits per dimension of 100 test digits, unless they are stored or do not exist."""
        if run not in DENSITIES:
            return
        file, generator = self.out / f"likelihood_{run}.json", self.generator(run)
        of_tokens = isinstance(generator.method, TokenProcess)
        how = TOKEN_DENSITY if of_tokens else DENSITY
        of = {"generator": self.checkpoint(run).sha256["ema.safetensors"], **how}
        if stored_draws(file, of):
            return
        digits = shuffled(load_mnist("test")).per_class(10)
        found = token_bits(generator, digits, **how) if of_tokens else bits_per_dimension(generator, digits, **how)
        files.write_json(file, {"of": of, "draws": [found], **provenance()})

    def ablation(self) -> Path:
        """Measure the runs of `ABLATION`, write ablation.json and return its path."""
        found = []
        for run, recipe in ABLATION.items():
            cell = Cell(run=run, **ABLATION_CELL)
            self.measure(cell, 0)
            draws = stored_draws(self._file(cell), self._identity(cell))
            found.append({**combined(cell, draws), "settings": recipe, "steps": self.checkpoint(run).step})
        file = self.out / "ablation.json"
        files.write_json(file, {"rows": found, "cell": ABLATION_CELL, **provenance()})
        return file

    def report(self, wanted: Sequence[Cell]) -> Path:
        """Write benchmark.json, table.md and the plots of all wanted cells that are measured; return the table.

        What was stored of a run that is not here stays, and is shown if the same classifier judged it.
        """
        file = self.out / "benchmark.json"
        before = json.loads(file.read_text())["training"] if file.exists() else {}
        found, floors = [], {}
        for cell in wanted:
            here = self._is_trained(cell.run)
            if not here and cell.run not in before:
                continue
            if draws := stored_draws(self._file(cell), self._identity(cell) if here else self._judged(cell)):
                found.append(combined(cell, draws))
                floors[str(cell.samples)] = self.reference(cell.samples)[1].floor
        require(found, f"no cell of {self.out} is measured", cure="measure some first")
        judge = checkpoint.read(self._classifier_path)
        result = {
            "rows": found,
            "floors": floors,
            "training": before | {run: self._training(run) for run in RUNS if self._is_trained(run)},
            "classifier": {"test_accuracy": judge.state["best"][0][0], "steps": judge.step},
            "precision": self.precision,
            **provenance(),
        }
        files.write_json(file, result)
        draw_benchmark(self.out, result)
        files.write_text(self.out / "table.md", f"{recipes(result)}\n\n{grid(result)}\n")
        return self.out / "table.md"

    def _file(self, cell: Cell) -> Path:
        return self.out / "cells" / f"{cell.name}.json"

    def _run_dir(self, run: str) -> Path:
        return self.runs / f"mnist_{run}"

    @property
    def _classifier_path(self) -> Path:
        return self._run_dir("classifier") / "checkpoints" / "last"

    def _checkpoint(self, run: str) -> checkpoint.Checkpoint:
        """The last checkpoint of a run, which is trained first if it is not."""
        folder = self._run_dir(run)
        if not self._is_trained(run):
            self._check_alone(folder)
            if run in NEEDS:
                self.checkpoint(NEEDS[run])
            settings = [one.format(runs=self.runs.resolve()) for one in (RUNS | AUTOENCODER | ABLATION)[run]]
            train_policy([*settings, f"run_dir={folder}", "resume=true", *self.training])
        return checkpoint.read(folder / "checkpoints" / "last")

    def _is_trained(self, run: str) -> bool:
        saved = checkpoint.latest(self._run_dir(run) / "checkpoints")
        return saved is not None and saved.step >= load_config(saved.config).training.steps

    def _check_alone(self, folder: Path) -> None:
        if not self.alone:
            sys.exit(f"{folder} is not trained yet, and several processes would train it at once: leave --shard out")

    def _classifier(self) -> nn.Module:
        if not self._classifier_path.exists():
            folder = self._run_dir("classifier")
            self._check_alone(folder)
            train_classifier(folder, load_mnist("train"), load_mnist("test"), resume=True)
        return load_classifier(self._classifier_path, self.device)

    def _reference(self, samples: int) -> tuple[nn.Module, Reference]:
        classifier = self._classifier()
        return classifier, Reference.draw(classifier, load_mnist("test"), samples // CLASSES)

    def _identity(self, cell: Cell) -> dict[str, Any]:
        """What a cell's draws depend on; draws of something else are made anew."""
        return {"generator": self.checkpoint(cell.run).sha256["ema.safetensors"], **self._judged(cell)}

    def _judged(self, cell: Cell) -> dict[str, Any]:
        """What a cell's draws depend on, but for what was trained."""
        judge = checkpoint.read(self._classifier_path).sha256["ema.safetensors"]
        sampler = asdict(SAMPLERS[cell.sampler]) | {"steps": SAMPLERS[cell.sampler].steps(cell.evaluations)}
        return {"classifier": judge, "precision": self.precision, "sampler": sampler}

    def _training(self, run: str) -> dict[str, Any]:
        saved = self.checkpoint(run)
        spent = minutes([entry["seconds"] for entry in read_metrics(self._run_dir(run) / "metrics.jsonl")])
        if run in NEEDS:
            needed = self._run_dir(NEEDS[run]) / "metrics.jsonl"
            given = f"{needed} is not there, whose minutes belong to those of {run}"
            require(needed.exists(), given, cure="bring the run that it was trained upon")
            spent += minutes([entry["seconds"] for entry in read_metrics(needed)])
        config = {name: saved.config[name] for name in ("net", "method", "images")}
        if run in NEEDS:  # by its name, wherever it lies
            config["images"] = {**config["images"], "autoencoder": NEEDS[run]}
        return {
            "steps": saved.step,
            "speed": saved.state["speed"],
            "minutes": spent,
            "parameters": sum(p.numel() for p in self.generator(run).parameters()),
            "config": config,
        }


def minutes(seconds: Sequence[float]) -> float:
    """Return the minutes of a log's times; each pause counts as the usual interval between entries."""
    gaps = [later - earlier for earlier, later in pairwise(sorted(seconds)) if later > earlier]
    usual = median(gaps) if gaps else 0.0
    return (seconds[0] + sum(usual if gap > _PAUSE * usual else gap for gap in gaps)) / 60
