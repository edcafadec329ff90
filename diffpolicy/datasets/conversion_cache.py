"""Recordings of other formats, converted once and kept below the data root."""

from __future__ import annotations

import os
from pathlib import Path

from diffpolicy.config.commands import ConvertConfig
from diffpolicy.datasets.convert import convert
from diffpolicy.datasets.downloads import data_root
from diffpolicy.datasets.importers import recognize
from diffpolicy.datasets.importers.replay_buffer import ReplayBufferImporter
from diffpolicy.datasets.source_digest import source_digest
from diffpolicy.datasets.zarr_layout import ZarrArchive
from diffpolicy.util.errors import explain
from diffpolicy.util.files import lock

CONVERSION = 1
"""Counts the changes of what a conversion makes of the same source; what was converted before is converted anew."""

FOLDER = "converted"
"""Below the data root."""


def replay_buffer_at(path: Path, root: str | os.PathLike[str] | None = None, *, progress: bool = True) -> Path:
    """Return where the recording at `path` can be read as a replay buffer: there, or where it was converted to.

    What is converted is known by its content (`source_digest`), wherever it lies. Of processes that ask at once, one
    converts and the others wait; a conversion that was cut off is continued.

    Args:
        path: a replay buffer, or a recording of a format that can be converted. Anything else is returned as it is,
            for the reader to say what is wrong with it.
        root: the data root, see `downloads.data_root`.
        progress: say what is converted and where to, with a progress bar.

    Raises:
        ValueError: a recording that cannot be converted without being told how.
        ImportError: a package that its format needs is not installed.
    """
    try:
        reader, seen = recognize(path)
    except (ValueError, FileNotFoundError):
        return path
    if issubclass(reader, ReplayBufferImporter):
        return path
    folder = data_root(root) / FOLDER
    target = folder / f"{path.stem}-{source_digest(path)[:16]}-{CONVERSION}.zarr"
    folder.mkdir(parents=True, exist_ok=True)
    with lock(target.with_suffix(".lock"), f"{target} is being converted", wait=True):
        if not _complete(target):
            _convert(path, target, seen, progress)
    return target


def _convert(path: Path, target: Path, seen: str, progress: bool) -> None:
    try:
        found = convert(ConvertConfig(source=str(path), out=str(target)), progress=progress)
    except ValueError as error:
        cure = f"convert it with what it needs: diffpolicy convert {path} OUT …"
        raise ValueError(explain(f"{path} is {seen}, and was not converted as it is ({error})", cure=cure)) from error
    if progress:
        for finding in found.findings:
            print(f"  {finding}")
        print(f"{path}: converted into {target}")


def _complete(target: Path) -> bool:
    """Whether a conversion was finished, which adds the names of its episodes to the attributes."""
    if not target.exists():
        return False
    try:
        with ZarrArchive(target) as archive:
            return "episodes" in archive.attrs()
    except ValueError:  # cut off in its first episode
        return False
