"""The manifest of a recording: the SHA-256 of every file, so that each damage is found and named."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from diffpolicy.datasets.zarr_layout import MANIFEST
from diffpolicy.util.errors import require
from diffpolicy.util.files import PARTIAL, sha256

Digests = Mapping[str, str]  # name of a file -> SHA-256 of its content


def verify(path: str | os.PathLike[str]) -> list[str]:
    """Return a sentence for each file of a recording that is damaged, missing or foreign.

    Raises:
        FileNotFoundError: nothing at `path`.
    """
    path = Path(path)
    require(path.is_dir(), f"no recording at {path}", f"a folder with a {MANIFEST}", error=FileNotFoundError)
    try:
        files, pending = read_manifest(path)
    except ValueError as error:
        return [str(error)]
    damaged = []
    for name in sorted({*files, *pending}):
        try:
            found = sha256(path / name)
        except FileNotFoundError:
            if name in files:
                damaged.append(f"{name} is missing")
        except OSError as error:
            damaged.append(f"{name} cannot be read ({error})")
        else:
            if found not in (files.get(name), pending.get(name)):
                damaged.append(f"{name} is not what was written")
    there = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    known = {MANIFEST, *files, *pending}
    foreign = there - known - {name + PARTIAL for name in known}
    return [*damaged, *(f"{name} does not belong to the recording" for name in sorted(foreign))]


def digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a recording, over names and digests of its files: equal contents have equal digests.

    Raises:
        ValueError: the manifest is missing or damaged.
    """
    files, _ = read_manifest(Path(path))
    return sha256(json.dumps(files, sort_keys=True).encode())


def manifest_bytes(files: Digests, pending: Digests) -> bytes:
    """Return the content of a manifest.

    Args:
        files: the digests of the files that count.
        pending: the digests that files are about to get.
    """
    body = {"files": dict(sorted(files.items())), "pending": dict(sorted(pending.items()))}
    own = sha256(json.dumps(body).encode())
    return (json.dumps({**body, "sha256": own}, indent=1) + "\n").encode()


def read_manifest(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the files and the pending ones of the manifest in the folder `path`.

    Raises:
        ValueError: it is not what `manifest_bytes` made, byte for byte.
    """
    try:
        content = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise ValueError(f"{MANIFEST} is missing or cannot be read ({error.strerror})") from error
    try:
        found = json.loads(content)
        whole = manifest_bytes(found["files"], found["pending"]) == content
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    require(whole, f"{MANIFEST} is not what was written")
    return found["files"], found["pending"]
