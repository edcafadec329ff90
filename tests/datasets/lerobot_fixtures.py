"""Copies of LeRobot's own recordings, and a plain reading of their files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from diffpolicy.datasets.importers.lerobot import LeRobotImporter

CAMERA = "observation.images.top"


def fixture(name: str) -> Path:
    """The recording of that name below DIFFPOLICY_DATA/formats; skips without it."""
    path = Path(os.environ.get("DIFFPOLICY_DATA", "/nowhere")) / "formats" / name
    if not path.is_dir():
        pytest.skip(f"no {name} below DIFFPOLICY_DATA/formats")
    return path


def copy(name: str, folder: Path) -> Path:
    """A copy that may be damaged."""
    target = folder / "copy"
    shutil.copytree(fixture(name), target)
    for file in [target, *target.rglob("*")]:
        file.chmod(0o755 if file.is_dir() else 0o644)
    return target


def read_all(path: Path) -> tuple[dict[int, dict[str, np.ndarray]], dict[int, str], list[str]]:
    """Arrays by episode, what is wrong with the others, and what was said."""
    said: list[str] = []
    found, lost = {}, {}
    with LeRobotImporter(path, said.append) as importer:
        for episode in importer.episodes():
            try:
                found[episode.number] = importer.read(episode)
            except ValueError as error:
                lost[episode.number] = str(error)
    return found, lost, said


def plain(path: Path) -> dict[int, dict[str, np.ndarray]]:
    """What pyarrow and PyAV alone give, videos in the order of their names."""
    parquet = pytest.importorskip("pyarrow.parquet")
    tables = [parquet.read_table(file).to_pydict() for file in sorted((path / "data").rglob("*.parquet"))]
    rows = {name: [value for table in tables for value in table[name]] for name in tables[0]}
    numbers = np.asarray(rows["episode_index"])
    images = []
    for file in sorted((path / "videos").rglob("*.mp4")) if (path / "videos").is_dir() else []:
        with av.open(str(file)) as container:
            images += [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    found = {}
    for number in np.unique(numbers):
        mine = np.flatnonzero(numbers == number)
        arrays = {k: np.asarray([rows[k][i] for i in mine], np.float32) for k in ("observation.state", "action")}
        if images:
            arrays[CAMERA] = np.stack([images[i] for i in mine])
        found[int(number)] = arrays
    return found


def edit_json(file: Path, **changes: object) -> None:
    """Change entries of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edit_table(file: Path, change) -> None:
    """Write a parquet file again with its rows, lists of dicts, changed."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(file)
    rows = change(table.to_pylist())
    parquet.write_table(arrow.Table.from_pylist(rows, schema=table.schema), file)
