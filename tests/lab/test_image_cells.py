"""The reference benchmark's parts: cells, what is counted and kept, and bits per dimension in closed form."""

from dataclasses import replace

import pytest
import torch

from diffpolicy.config import FoundInData, RunConfig
from diffpolicy.images import build_generator
from diffpolicy.images.drawing import draw_images
from image_benchmark.cells import FIELD_SAMPLERS, SAMPLERS, Cell, balanced, cells, combined, configure, stored_draws
from image_benchmark.plots import draw_benchmark
from image_benchmark.tables import RECIPES
from image_benchmark.work import RUNS

CONFIG = RunConfig(
    net={"name": "unet2d", "widths": [8, 16], "layers": 1, "features": 8, "block": "adaptive", "patch": 4},
    method={"name": "generative", "path": {"name": "linear"}, "prediction": "velocity", "steps": 3},
    found=FoundInData(kind="images", image_shape=[1, 32, 32], labels=10),
)


def _generator(net=None):
    torch.manual_seed(0)
    generator = build_generator(CONFIG).eval().requires_grad_(False)
    if net is not None:
        generator.net.forward = net
    return generator


def test_every_cell_has_its_own_name_and_the_whole_table_is_there():
    every = list(cells())
    assert len({cell.name for cell in every}) == len(every)
    grid = {(cell.sampler, cell.evaluations) for cell in every if (cell.guidance, cell.samples) == (3, 1000)}
    assert grid >= {(sampler, n) for sampler in FIELD_SAMPLERS for n in (5, 10, 20, 50)}
    for scale in (1, 5):
        assert {cell.sampler for cell in every if cell.guidance == scale and cell.samples == 1000} == {
            *FIELD_SAMPLERS
        }
    assert {(c.guidance, c.evaluations) for c in every if c.run == "notes"} == {(1, 99), (1.5, 99), (3, 99), (5, 99)}
    assert {cell.run for cell in every} == set(RUNS) == set(RECIPES) and {cell.sampler for cell in every} == {
        *SAMPLERS
    }


@pytest.mark.parametrize(
    ("method", "sampler", "calls"),
    [
        ({"name": "mean_flow", "path": {"name": "linear"}}, "jumps", 4),
        ({"name": "discrete", "levels": 2}, "tau-leaping", 8),  # guided
    ],
)
def test_networks_without_a_field_take_the_calls_they_are_said_to(method, sampler, calls):
    generator = build_generator(replace(CONFIG, method=method)).eval().requires_grad_(False)
    configure(generator, sampler, 4)
    images, spent = draw_images(generator, torch.tensor([1, 2]), seed=0, guidance=3.0)
    assert images.isfinite().all() and spent == calls


@pytest.mark.parametrize("sampler", FIELD_SAMPLERS)
def test_a_sampler_takes_the_evaluations_it_is_said_to(sampler):
    generator = _generator()
    for evaluations in (5, 10):
        configure(generator, sampler, evaluations)
        images, calls = draw_images(generator, torch.tensor([1, 2]), seed=0, guidance=3.0)
        assert images.isfinite().all()
        spent = calls / 2
        assert spent == evaluations or (sampler == "Heun" and spent == evaluations - 1 + evaluations % 2)


def test_labels_are_balanced():
    assert torch.bincount(balanced(30)).tolist() == [3] * 10
    for wrong in (0, 5, 31):
        with pytest.raises(ValueError, match="multiple of 10"):
            balanced(wrong)


def _draw(right, distance, half):
    interval = {"mean": distance, "low": distance - half, "high": distance + half}
    return {
        "n": 10, "seed": 0, "network_calls": 20, "seconds": 2.0, "frechet": interval,
        "accuracy": {"mean": right / 10, "low": 0, "high": 1}, "diversity": {"mean": 0.9, "min": 0.5},
    }  # fmt: skip


def test_draws_are_pooled():
    cell = Cell("own", 3.0, "Euler", 10, 10, 3)
    found = combined(cell, [_draw(9, 4.0, 0.3), _draw(10, 6.0, 0.4)])
    assert found["accuracy"]["mean"] == pytest.approx(19 / 20) and found["seeds"] == 2
    assert found["frechet"]["mean"] == 5.0
    assert found["frechet"]["high"] - 5.0 == pytest.approx(0.25)  # of a mean of two: √(0.3² + 0.4²)/2


def test_what_another_checkpoint_made_is_not_stored_draws(tmp_path):
    file = tmp_path / "cell.json"
    assert stored_draws(file, {"generator": "a"}) == []
    file.write_text('{"of": {"generator": "a"}, "draws": [1]}')
    assert stored_draws(file, {"generator": "a"}) == [1] and stored_draws(file, {"generator": "b"}) == []
    assert stored_draws(file, {}) == [1], "of a checkpoint that is not here"


def test_plots_of_the_table(tmp_path):
    rows = [
        combined(Cell("own", w, sampler, n, samples, 1), [_draw(10 if w == 3 else 9, 4.0 / n, 0.1)])
        for w in (1.0, 3.0) for sampler in ("Euler", "DDIM") for n in (5, 10) for samples in (10, 20)
    ]  # fmt: skip
    floors = {n: {k: rows[0][k] for k in ("accuracy", "frechet", "diversity")} for n in ("10", "20")}
    draw_benchmark(tmp_path, {"rows": rows, "floors": floors})
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("calls.png", "guidance.png"))
