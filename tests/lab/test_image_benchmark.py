"""The image benchmark's command: trains, measures, reports; started again, it measures nothing twice."""

import json

import pytest

import benchmark_images
from diffpolicy import checkpoint
from diffpolicy.datasets import data_root
from diffpolicy.datasets.sources.mnist import load_mnist
from diffpolicy.images.classifier import train_classifier
from diffpolicy.training import TrainConfig
from image_benchmark import work
from image_benchmark.cells import Cell

if not (data_root() / "mnist" / "train-images-idx3-ubyte.gz").exists():
    pytest.skip("needs MNIST: set DIFFPOLICY_DATA to the folder that holds mnist/", allow_module_level=True)

TINY = ["training.batch_size=20", "training.steps=2", "training.validate_every=0", "speed=float32"]
TINY += ["net.widths=[8,16]", "net.layers=1", "net.features=8"]
CELLS = [
    Cell("own", 3.0, "DDIM", 2, 80, 1),
    Cell("own", 3.0, "Euler", 2, 80, 1),
    Cell("own", 3.0, "Euler", 2, 100, 2),
    Cell("notes", 1.0, "Euler", 2, 100, 1),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark_images, "cells", lambda: CELLS)
    monkeypatch.setattr(work, "DENSITY", {"steps": 1, "probes": 2, "indices": 3})
    settings = TrainConfig(steps=2, batch_size=20, validate_every=0, evaluate_every=0, checkpoint_every=0)
    train_classifier(
        tmp_path / "runs/mnist_classifier", load_mnist("train"), load_mnist("test").per_class(10),
        training=settings, speed="float32", progress=False,
    )  # fmt: skip
    return tmp_path


def _command(*arguments):
    benchmark_images.main(["--runs", "runs", "--out", "out", *arguments])


@pytest.mark.slow
def test_the_command_measures_once_and_reports_all(folder, monkeypatch, capsys):
    _command("--only", "own", "--training", *TINY)
    found = json.loads((folder / "out/benchmark.json").read_text())
    assert {one["run"] for one in found["rows"]} == {"own"} and "Infinity" not in (
        folder / "out/benchmark.json"
    ).read_text()
    assert [one["network_calls"] for one in found["rows"]] == [4, 4, 4]
    assert [one["seeds"] for one in found["rows"]] == [1, 1, 2] and found["rows"][2]["n"] == 200
    assert set(found["floors"]) == {"80", "100"}
    for name in ("table.md", "calls.png", "guidance.png", "likelihood_own.json"):
        assert (folder / "out" / name).stat().st_size > 0

    measured = []
    original = work.measure_seed

    def counted(cell, seed, *rest):
        measured.append((cell.run, seed))
        return original(cell, seed, *rest)

    monkeypatch.setattr(work, "measure_seed", counted)
    with pytest.raises(SystemExit, match="several processes would train it at once"):
        _command("--shard", "1/2")
    _command("--training", *TINY)
    assert measured == [("notes", 0)]
    again = json.loads((folder / "out/benchmark.json").read_text())
    assert again["rows"][:3] == found["rows"] and again["rows"][3]["run"] == "notes"
    assert (folder / "out/table.md").read_text().count("| the notes' |") == 1
    assert again["training"]["own"]["steps"] == checkpoint.read("runs/mnist_own/checkpoints/last").step == 2


def test_what_was_stored_of_a_run_that_is_not_here_stays(folder):
    bench = work.Benchmark(folder / "runs", folder / "out", "float32", "cpu", [])
    cell = Cell("notes", 1.0, "Euler", 2, 100, 1)
    interval = {"mean": 3.0, "low": 2.0, "high": 4.0}
    draw = {
        "n": 100, "seed": 0, "network_calls": 2, "seconds": 2.0, "frechet": interval,
        "accuracy": {"mean": 0.5, "low": 0.4, "high": 0.6}, "diversity": {"mean": 0.9, "min": 0.5},
    }  # fmt: skip
    file = folder / "out/cells" / f"{cell.name}.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"of": {"generator": "gone", **bench._judged(cell)}, "draws": [draw]}))
    with pytest.raises(ValueError, match="no cell of .* is measured"):
        bench.report([cell])
    notes = {"minutes": 105.0, "steps": 5000}
    (folder / "out/benchmark.json").write_text(json.dumps({"training": {"notes": notes}}))
    for wanted in ([cell], [cell, Cell("notes", 3.0, "Euler", 2, 100, 1)]):
        bench.report(wanted)
        found = json.loads((folder / "out/benchmark.json").read_text())
        assert [one["run"] for one in found["rows"]] == ["notes"] and found["training"] == {"notes": notes}
    file.write_text(
        json.dumps({"of": {"generator": "gone", **bench._judged(cell), "classifier": "x"}, "draws": [draw]})
    )
    with pytest.raises(ValueError, match="no cell of"):
        bench.report([cell])
    assert json.loads((folder / "out/benchmark.json").read_text())["training"] == {"notes": notes}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--scale", "0.5"], "leaves 40 digits in a cell; a Fréchet distance takes 70"),
        (["--shard", "2/2"], "expected I/N"),
        (["--shard", "0"], "expected I/N"),
        (["--ablation", "--shard", "0/2"], "by one process"),
        (["--only", "mine"], "invalid choice"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_made(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark_images, "cells", lambda: CELLS)
    with pytest.raises(SystemExit):
        _command(*arguments)
    assert says in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_documented_quick_look_is_large_enough():
    fewest = min(benchmark_images.scaled(cell, 0.1).samples for cell in benchmark_images.cells())
    assert fewest >= benchmark_images.FEWEST
