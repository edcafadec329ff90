"""Draw the gallery: its figures, and the two pages that show them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import matplotlib
from tqdm import tqdm

from diffpolicy.checkpoint import read
from diffpolicy.config import load_config
from diffpolicy.config.commands import GalleryConfig
from diffpolicy.datasets.sources.mnist import load_mnist
from diffpolicy.gallery.exhibits import EXHIBITS
from diffpolicy.gallery.pages import save_figure, write_pages
from diffpolicy.gallery.style import RC, Exhibit, Settings
from diffpolicy.images import load_generator
from diffpolicy.util import files, names
from diffpolicy.util.errors import require

_CHECKPOINTS = {"mnist": "digits", "moving_digits": "films"}
"""The task that trains a generator, which is also its data set, and the setting that names its checkpoint."""

FOLDER, SMALL_FOLDER = "docs/gallery", "gallery_small"  # a quick look does not replace what was drawn with care


def draw_gallery(config: GalleryConfig) -> str:
    """Draw the figures that the settings name, rewrite the pages, and return where they are.

    Raises:
        ValueError: an unknown figure, a negative seed, or a checkpoint of another task.
        FileExistsError: `out` is a file.
        CheckpointError: `digits` or `films` is no checkpoint of a generator of images.
    """
    out = Path(config.out or (SMALL_FOLDER if config.small else FOLDER))
    for name in config.only:
        names.check("figure", name, [exhibit.name for exhibit in EXHIBITS])
    require(config.seed >= 0, f"seed={config.seed}", "at least 0")
    require(not out.exists() or out.is_dir(), f"out={out} is a file", "a folder", error=FileExistsError)
    record = out / "commands.json"  # which command made which figure
    commands = json.loads(record.read_text()) if record.exists() else {}
    chosen = [exhibit for exhibit in EXHIBITS if not config.only or exhibit.name in config.only]
    if config.missing:
        chosen = [exhibit for exhibit in chosen if not _drawn(exhibit, out, commands)]
    given = {task: vars(config)[setting] for task, setting in _CHECKPOINTS.items()}
    settings = Settings(config.seed, config.small, {task: Path(path) for task, path in given.items() if path})
    for task, path in settings.checkpoints.items():  # refused before minutes of drawing
        load_generator(path)
        of = load_config(read(path).config).dataset.name
        require(of == task, f"{path} was trained on {of}", f"a generator that diffpolicy train task={task} made")
    if any(exhibit.needs_mnist for exhibit in chosen):
        load_mnist("train")  # likewise

    out.mkdir(parents=True, exist_ok=True)
    with tqdm(chosen, desc="gallery", unit="figure") as bar:
        for exhibit in bar:
            bar.set_postfix_str(exhibit.name)
            began = time.perf_counter()
            with matplotlib.rc_context(RC):
                save_figure(out / f"{exhibit.name}.png", exhibit.draw(settings))
            commands[exhibit.name] = _command(settings, exhibit)
            files.write_json(record, commands)
            tqdm.write(f"{exhibit.name}.png  {time.perf_counter() - began:.0f} s")
    write_pages(out, [exhibit for exhibit in EXHIBITS if _drawn(exhibit, out, commands)], commands)
    return f"{out / 'README.md'}, and for a browser {out / 'index.html'}"


def _drawn(exhibit: Exhibit, out: Path, commands: Mapping[str, str]) -> bool:
    return exhibit.name in commands and (out / f"{exhibit.name}.png").exists()


def _command(settings: Settings, exhibit: Exhibit) -> str:
    """What to type for a figure of these settings; of those that it does not depend on, nothing."""
    options = {f"seed={settings.seed}": settings.seed != 0, "small=true": settings.small}
    command = " ".join(["diffpolicy gallery", *(option for option, given in options.items() if given)])
    task = exhibit.draws_with
    if task not in settings.checkpoints:
        return command
    return f"diffpolicy train task={task} run_dir=RUN\n{command} {_CHECKPOINTS[task]}=RUN/checkpoints/last"
