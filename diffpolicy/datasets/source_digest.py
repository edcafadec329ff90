"""A digest of files of any format, fast enough to be taken before every training."""

from __future__ import annotations

from pathlib import Path

from diffpolicy.util.files import new_digest

WHOLE = 64 * 2**20
"""Files up to so many bytes are read whole."""

_BLOCKS, _BLOCK = 32, 2**20


def source_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files of a folder.

    Of files above `WHOLE` bytes, size and `_BLOCKS` blocks of 1 MiB spread from the first byte to the last count:
    what converts a recording reads all of it, what only asks whether it is still the same cannot take as long.
    """
    digest = new_digest()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        size = file.stat().st_size
        name = file.relative_to(path).as_posix() if file != path else ""
        digest.update(f"{name}\0{size}\0".encode())
        with file.open("rb") as stream:
            if size <= WHOLE:
                digest.update(stream.read())
                continue
            for i in range(_BLOCKS):
                stream.seek((size - _BLOCK) * i // (_BLOCKS - 1))
                digest.update(stream.read(_BLOCK))
    return str(digest.hexdigest())
