"""Files that appear whole or not at all, their digests, and one writer at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from diffpolicy.util.errors import explain

PARTIAL = ".partial"


class DiskFullError(OSError):
    """There is no room for what is to be written.

    Args:
        path: what was to be written.
        needed: its bytes.
        cure: what to do.
    """

    def __init__(
        self, path: str | os.PathLike[str], needed: int, cure: str = "make room and repeat the command"
    ) -> None:
        given = f"no space for {path}: {needed:,} bytes are needed, and {free_bytes(path):,} are free"
        super().__init__(explain(given, cure=cure))
        self.path, self.needed = path, needed


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside `path` to write to; when the block ends well it is flushed and takes the place of `path`.

    A reader sees the old file or the new one, also after a crash. When the block fails, nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    try:
        yield partial
        flush(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Write `content` to `path` as UTF-8, whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write `content` to `path` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def sha256(source: bytes | str | os.PathLike[str]) -> str:
    """Return the SHA-256 in hexadecimal of bytes, or of the file at a path."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with Path(source).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def new_digest() -> Any:
    """Return an SHA-256 that can be fed piece by piece (`update`, `hexdigest`)."""
    return hashlib.sha256()


def rename(old: str | os.PathLike[str], new: str | os.PathLike[str]) -> None:
    """Give a file or a folder another name on the same disk, in one step; a file of that name is replaced."""
    os.replace(old, new)


def flush(path: str | os.PathLike[str]) -> None:
    """Bring a file, or the entries of a folder, to disk. Folders are skipped where the system cannot open them."""
    path = Path(path)
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR
    try:
        handle = os.open(path, flags)
    except OSError:
        if path.is_dir():  # Windows opens no folders, and needs no flushing of them
            return
        raise
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some file systems flush no folders
            raise
    finally:
        os.close(handle)


@contextmanager
def lock(path: str | os.PathLike[str], held: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file at `path` while the block runs.

    Args:
        path: of the lock file, which may stay behind.
        held: what to say if another process holds it.
        wait: wait for the other process.

    Raises:
        FileExistsError: another process holds it, unless `wait`.
    """
    if filelock.FileLock is filelock.SoftFileLock:  # a system without locks; a file alone would survive a kill
        yield
        return
    file = filelock.FileLock(str(path), blocking=wait)
    try:
        file.acquire()
    except filelock.Timeout:
        raise FileExistsError(held) from None
    except (NotImplementedError, OSError):  # a file system without locks
        yield
        return
    try:
        yield
    finally:
        file.release()


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Return the free bytes of the disk that holds `path`, or would hold it."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def require_space(path: str | os.PathLike[str], needed: int) -> None:
    """Raise DiskFullError unless the disk of `path` has `needed` free bytes."""
    if free_bytes(path) < needed:
        raise DiskFullError(path, needed)


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error, of Python or of a library that only words it, says that a disk or quota is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, DiskFullError):
        return True
    return bool(re.search(r"os error (28|112|122)\b", str(error)))
