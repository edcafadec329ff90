"""Recordings of other formats, converted once and kept below the data root."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from diffpolicy.config.commands import ConvertConfig
from diffpolicy.datasets.conversion_changes import ACTION
from diffpolicy.datasets.convert import convert
from diffpolicy.datasets.downloads import data_root
from diffpolicy.datasets.importers import UnknownFormat, recognize
from diffpolicy.datasets.importers.replay_buffer import ReplayBufferImporter
from diffpolicy.datasets.importers.unreadable import UnreadableImporter
from diffpolicy.datasets.source_digest import source_digest, stamp
from diffpolicy.datasets.zarr_layout import ZarrArchive
from diffpolicy.util.errors import explain
from diffpolicy.util.files import lock, sha256, write_json

CONVERSION = 1
"""Counts the changes of what a conversion makes of the same source; what was converted before is converted anew."""

FOLDER = "converted"
"""Below the data root."""


def replay_buffer_at(
    path: Path, root: str | os.PathLike[str] | None = None, *, action_key: str = ACTION, progress: bool = True
) -> Path:
    """Return where the recording at `path` can be read as a replay buffer: there, or where it was converted to.

    What is converted is known by its content (`source_digest`), wherever it lies. Of processes that ask at once, one
    converts and the others wait; a conversion that was cut off is continued.

    Args:
        path: a replay buffer, or a recording of a format that can be converted. Anything else is returned as it is,
            for the reader to say what is wrong with it.
        root: the data root, see `downloads.data_root`.
        action_key: the array of the actions; a replay buffer of any project that has it is not converted.
        progress: say what is converted and where to, with a progress bar.

    Raises:
        ValueError: a recording that is damaged, of a format that is not read, or cannot be converted without being
            told how.
        ImportError: a package that its format needs is not installed.
    """
    try:
        reader, seen = recognize(path)
    except (UnknownFormat, FileNotFoundError):
        return path
    if issubclass(reader, ReplayBufferImporter) or _holds(path, action_key):
        return path
    if issubclass(reader, UnreadableImporter):
        reader(path, print).close()  # says what to do instead
    folder = data_root(root) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{path.stem}-{_digest(path, folder)[:16]}-{CONVERSION}.zarr"
    with lock(target.with_suffix(".lock"), f"{target} is being converted", wait=True):
        attrs = _attributes(target)
        if "episodes" not in attrs:  # which are added when it is finished
            _convert(path, target, seen, progress)
        elif progress and (findings := attrs.get("findings")):
            known = f"{path}: {len(findings)} findings when it was converted, the first: {findings[0]}"
            print(f"{known}; to convert it anew, delete {target}")
    return target


def _holds(path: Path, key: str) -> bool:
    """Whether a recording is a replay buffer, of whatever project, with an array of that name."""
    if ReplayBufferImporter.recognize(path) is None:
        return False
    with ZarrArchive(path) as archive:
        return key in archive.names()


def _digest(path: Path, folder: Path) -> str:
    """The digest of a source: the one from the last time, if no file has another size or time since."""
    note, now = folder / f"{sha256(str(path.resolve()).encode())[:16]}.json", stamp(path)
    with lock(note.with_suffix(".lock"), f"{note} is being written", wait=True):
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(note.read_text())
            if known["stamp"] == now:
                return str(known["digest"])
        digest = source_digest(path)
        with suppress(OSError):  # a data root that is only read
            write_json(note, {"stamp": now, "digest": digest})
    return digest


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


def _attributes(target: Path) -> dict[str, Any]:
    """The attributes of a conversion; none if there is none, or it was cut off in its first episode."""
    if not target.exists():
        return {}
    try:
        with ZarrArchive(target) as archive:
            return archive.attrs()
    except ValueError:
        return {}
