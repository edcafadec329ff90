"""A digest of files of any format, fast enough to be taken before every training."""

from __future__ import annotations

import json
from pathlib import Path

from diffpolicy.util.files import new_digest, sha256

WHOLE = 64 * 2**20
"""Files up to so many bytes are read whole."""

_BLOCKS, _BLOCK = 32, 2**20


def source_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files of a folder.

    Of files above `WHOLE` bytes, size, time of the last change, and `_BLOCKS` blocks of 1 MiB spread from the first
    byte to the last count: what converts a recording reads all of it, what only asks whether it is still the same
    cannot take as long.
    """
    digest = new_digest()
    for file, name in _files(path):
        size = file.stat().st_size
        digest.update(f"{name}\0{size}\0".encode())
        with file.open("rb") as stream:
            if size <= WHOLE:
                digest.update(stream.read())
                continue
            digest.update(f"{file.stat().st_mtime_ns}\0".encode())
            for i in range(_BLOCKS):
                stream.seek((size - _BLOCK) * i // (_BLOCKS - 1))
                digest.update(stream.read(_BLOCK))
    return str(digest.hexdigest())


def stamp(path: Path) -> str:
    """Return what changes with the names, sizes and times of files, read from no file: a digest of these.

    Args:
        path: a file or a folder.
    """
    known = [(name, (about := file.stat()).st_size, about.st_mtime_ns) for file, name in _files(path)]
    return sha256(json.dumps([str(path.resolve()), known]).encode())


def _files(path: Path) -> list[tuple[Path, str]]:
    """All files of a source, with their names in it."""
    if path.is_file():
        return [(path, "")]
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return [(file, file.relative_to(path).as_posix()) for file in files]
