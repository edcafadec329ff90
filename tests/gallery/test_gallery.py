"""The gallery, small: every figure is drawn, the pages name them all, and what they name exists."""

import copy
import functools
import importlib
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from diffpolicy.checkpoint import CheckpointError
from diffpolicy.config.commands import GalleryConfig
from diffpolicy.config.compose import compose
from diffpolicy.config.schema import plain
from diffpolicy.datasets.images import LabeledImages
from diffpolicy.gallery import EXHIBITS, digits, draw, draw_gallery, films, spectra
from diffpolicy.gallery import learn as learning
from diffpolicy.gallery.learn import learn, learn_in_stages, mlp, points
from diffpolicy.gallery.pages import save_figure
from diffpolicy.gallery.style import Settings


def bars(split, root=None):
    """Ten classes of pictures, a bar each, so that no test downloads."""
    labels = torch.arange(40) % 10
    levels = torch.zeros(40, 1, 32, 32, dtype=torch.uint8)
    for i, label in enumerate(labels.tolist()):
        levels[i, :, 2 + 3 * label : 4 + 3 * label, 4:28] = 255
    return LabeledImages(levels, labels)


@pytest.fixture(scope="module", autouse=True)
def no_mnist():
    with pytest.MonkeyPatch.context() as patch:
        for module in (digits, draw, films, spectra):
            patch.setattr(module, "load_mnist", bars)
        yield


def small(out, *only, **settings):
    return draw_gallery(GalleryConfig(out and str(out), list(only), small=True, **settings))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small(None)
    return folder / "gallery_small"


def test_every_figure_is_drawn_and_no_file_is_left_over(drawn):
    names = {exhibit.name for exhibit in EXHIBITS}
    assert len(names) == len(EXHIBITS) == 28
    assert {file.name for file in drawn.iterdir()} == {f"{name}.png" for name in names} | {
        "README.md",
        "index.html",
        "commands.json",
    }
    for name in names:
        with Image.open(drawn / f"{name}.png") as picture:
            assert picture.width > 600 and picture.height > 200
            assert len(picture.convert("RGB").getcolors(2**16)) > 50, f"{name} is nearly blank"
            assert (picture.n_frames > 1) is (name == "films_by_words")


def test_a_film_keeps_every_frame_and_the_colors_of_all(tmp_path):
    frames = []
    for color in ("red", "lime", "blue"):
        figure = Figure(figsize=(2, 1))
        figure.patch.set_color(color)
        frames.append(figure)
    save_figure(tmp_path / "film.png", frames)
    with Image.open(tmp_path / "film.png") as film:
        assert film.is_animated and film.n_frames == 3
        for number, color in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255))):
            film.seek(number)
            assert np.abs(np.asarray(film.convert("RGB"), int) - color).max() < 3


def test_pages_hold_every_figure_with_formula_and_function(drawn):
    readme, page = (drawn / "README.md").read_text(), (drawn / "index.html").read_text()
    assert re.findall(r"!\[.*\]\((.*)\)", readme) == [f"{exhibit.name}.png" for exhibit in EXHIBITS]
    assert readme.count("```math") == page.count("data:image/png;base64,") == len(EXHIBITS)
    assert not re.search(r'(src|href)="(?!data:|#)', page), "a page that needs other files"
    for exhibit in EXHIBITS:
        assert exhibit.latex in readme and exhibit.see in readme
        assert f'id="{exhibit.name}"' in page and f'href="#{exhibit.name}"' in page
        assert (exhibit.erratum in readme) and exhibit.latex.count("{") == exhibit.latex.count("}")
        for function in exhibit.functions:
            assert f"`{function}`" in readme and f"<code>{function}</code>" in page
    assert "diffpolicy gallery small=true" in readme


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda exhibit: exhibit.name)
def test_named_functions_exist(exhibit):
    for function in exhibit.functions:
        module, name = function.split(":")
        functools.reduce(getattr, name.split("."), importlib.import_module(module))


def test_only_draws_those_anew_and_the_same_again(drawn, capsys):
    file, other = drawn / "brownian_motion.png", drawn / "schedules.png"
    before, untouched = file.read_bytes(), other.stat().st_mtime_ns
    file.write_bytes(b"")
    small(drawn, "brownian_motion")
    assert file.read_bytes() == before and other.stat().st_mtime_ns == untouched
    assert (drawn / "README.md").read_text().count("```math") == len(EXHIBITS)
    assert "brownian_motion.png" in capsys.readouterr().out


def test_pages_tell_apart_what_was_made_by_different_commands(tmp_path):
    small(tmp_path, "probability_paths", "velocity_fields")
    assert "This makes all of them:" in (tmp_path / "README.md").read_text()
    small(tmp_path, "probability_paths", seed=3)
    for name in ("README.md", "index.html"):
        text = (tmp_path / name).read_text()
        assert "This made probability_paths:" in text and "diffpolicy gallery seed=3 small=true" in text
        assert "This made velocity_fields" in text


def test_a_part_has_a_page_of_its_own(tmp_path):
    small(tmp_path / "a" / "b", "probability_paths", seed=3)
    assert {file.name for file in (tmp_path / "a" / "b").iterdir()} == {
        "probability_paths.png", "README.md", "index.html", "commands.json",
    }  # fmt: skip
    assert "diffpolicy gallery seed=3 small=true" in (tmp_path / "a" / "b" / "README.md").read_text()


def test_what_is_missing_is_drawn_and_the_rest_is_kept(drawn, capsys):
    gone, kept = drawn / "schedules.png", drawn / "brownian_motion.png"
    before, untouched = gone.read_bytes(), kept.stat().st_mtime_ns
    gone.unlink()
    small(drawn, missing=True)
    assert gone.read_bytes() == before and kept.stat().st_mtime_ns == untouched
    assert re.findall(r"(\w+)\.png", capsys.readouterr().out) == ["schedules"]


def test_a_generator_of_digits_is_trained_once_and_figures_do_not_disturb_each_other(tmp_path, monkeypatch):
    built, build = [], learning.build_generator
    monkeypatch.setattr(learning, "build_generator", lambda config: built.append(config) or build(config))
    digits._briefly_trained.cache_clear()
    small(tmp_path / "both", "guidance_on_digits", "inversion")
    assert len(built) == 1
    digits._briefly_trained.cache_clear()
    small(tmp_path / "one", "inversion")
    assert (tmp_path / "one/inversion.png").read_bytes() == (tmp_path / "both/inversion.png").read_bytes()


def test_only_figures_of_a_checkpoint_name_it(tmp_path, monkeypatch):
    for module in (draw, digits):
        monkeypatch.setattr(
            module, "load_generator", lambda path: copy.deepcopy(digits._briefly_trained(Settings(small=True)))
        )
    monkeypatch.setattr(
        draw, "read", lambda path: SimpleNamespace(config=plain(compose(["task=mnist", "run_dir=RUN"])))
    )
    small(tmp_path, "probability_paths", "inversion", digits="RUN")
    readme = (tmp_path / "README.md").read_text()
    assert "This made probability_paths:\n\n```bash\ndiffpolicy gallery small=true\n" in readme
    assert "This made inversion:\n\n```bash\ndiffpolicy train task=mnist run_dir=RUN\ndiffpolicy gallery" in readme
    with pytest.raises(
        ValueError,
        match="RUN was trained on mnist; expected a generator that diffpolicy train task=moving_digits made",
    ):
        small(tmp_path, "films_by_words", films="RUN")


def _line(n, generator):
    return torch.randn(n, 1, generator=generator).expand(n, 2)


def _to_one(net, batch, generator):
    return (net(batch["data"], torch.rand(len(batch["data"]), generator=generator)) - 1).square().mean(1)


def test_what_is_learned_is_the_same_again():
    first, second = (learn(mlp, _to_one, points(_line), Settings(small=True)) for _ in range(2))
    other = learn(mlp, _to_one, points(_line), Settings(seed=1, small=True))
    x, t = torch.zeros(1, 2), torch.zeros(1)
    assert torch.equal(first(x, t), second(x, t)) and not torch.equal(first(x, t), other(x, t))
    assert not first.training


def test_stages_are_moments_of_one_training():
    settings, x, t = Settings(small=True), torch.zeros(1, 2), torch.zeros(1)
    stages, losses = learn_in_stages(mlp, _to_one, points(_line), settings, (0, 2, 5))
    (whole,), same = learn_in_stages(mlp, _to_one, points(_line), settings, (5,))
    first, middle, last = (net(x, t) for net in stages)
    assert torch.equal(last, whole(x, t)) and torch.equal(losses, same) and len(losses) == 5
    torch.manual_seed(settings.seed)
    assert torch.equal(first, mlp()(x, t)) and not torch.equal(first, middle) and not torch.equal(middle, last)


def test_a_wave_has_its_power_on_its_ring_and_white_noise_has_one_everywhere():
    side, cycles = 32, 5
    wave = torch.cos(2 * torch.pi * cycles * torch.arange(side) / side).expand(1, 1, side, side)
    rings, power = spectra.spectrum(wave)
    line = torch.cat([torch.arange(16), torch.arange(-16, 0)]).double()
    on_ring = ((line[:, None] ** 2 + line**2).sqrt().round() == cycles).sum()
    assert power[cycles - 1] == pytest.approx(side**2 / 2 / float(on_ring), rel=1e-5)
    assert power[rings != cycles].max() < 1e-6
    noise = torch.randn(2000, 1, side, side, generator=torch.Generator().manual_seed(0))
    assert (spectra.spectrum(noise)[1] - 1).abs().max() < 0.03


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"only": ["brownian_motions"]}, "unknown figure 'brownian_motions' (did you mean 'brownian_motion'?)"),
        ({"seed": -1}, "seed=-1; expected at least 0"),
        ({"out": "FILE"}, "out=FILE is a file; expected a folder"),
        ({"digits": "nowhere"}, "no checkpoint at nowhere"),
    ],
)
def test_refusals_say_what_to_do(settings, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").touch()
    with pytest.raises((ValueError, OSError, CheckpointError), match=re.escape(words)):
        draw_gallery(GalleryConfig(small=True, **settings))
    assert {file.name for file in tmp_path.iterdir()} == {"FILE"}
