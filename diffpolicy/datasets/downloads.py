"""Published data sets by name: where they lie, and how they get there.

The data root is, in this order, what the caller names, the environment variable `DIFFPOLICY_DATA`, or the
user's cache directory. What it lacks is downloaded into it and checked by content: the SHA-256 of the decoded
arrays, which holds whatever the container.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import final

import numpy as np
import pooch

from diffpolicy.datasets.zarr_layout import ENDS, ZarrArchive, unknown

ENVIRONMENT_VARIABLE = "DIFFPOLICY_DATA"

_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class ZarrSource:
    """A published zarr data set.

    Attributes:
        title: what a message calls it.
        url: of a zip file.
        folder: the zarr directory: inside the zip, and likewise below the data root.
        digests: array -> SHA-256 (hex) of its decoded bytes in C order, float32 under `data/` and int64 under
            `meta/`, little-endian.
    """

    title: str
    url: str
    folder: str
    digests: Mapping[str, str]


PUSHT = ZarrSource(
    title="the human Push-T demonstrations",
    url="https://diffusion-policy.cs.columbia.edu/data/training/pusht.zip",
    folder="pusht/pusht_cchi_v7_replay.zarr",
    digests={
        "data/state": "dcdc539bfdba9fc01cba8d2fe91cc580539ec046a88b0ffbe91be5511948d4dc",
        "data/action": "6691b085749144b8db1aede97a80fb380afd08953fcd03660b441d0ffe9d6a8f",
        "data/keypoint": "2419980734c1d41050f8fbf7513031e6e784168bafbe42bcec81fdebe44c6611",
        "data/n_contacts": "3e4258a61c21da4af3257269d3300b5128f04ba3ad34ebd0d0e709489ca854d4",
        "data/img": "3f7650895d1a500d7162b10475df689731f4fece2b15eaf7d913a560c2a0783d",
        ENDS: "82db02e667c59a83fedb211ab9b84182591b75009df1385210d5235197f93d72",
    },
)

SOURCES: dict[str, ZarrSource] = {"pusht": PUSHT}


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the data sets: `root`, else `DIFFPOLICY_DATA` (if not empty), else the user's cache."""
    chosen = root or os.environ.get(ENVIRONMENT_VARIABLE) or pooch.os_cache("diffpolicy")
    return Path(chosen).expanduser()


def resolve(name: str, root: str | os.PathLike[str] | None = None) -> Path:
    """Where the data set `name` lies; it is downloaded first if the data root lacks it.

    Raises:
        KeyError: an unknown name.
        OSError: there is no network, or the data root cannot be written to (see `fetch`).
        ValueError: what was downloaded is not what was published.
    """
    if name not in SOURCES:
        raise KeyError(unknown("data set", name, SOURCES))
    place = data_root(root) / SOURCES[name].folder
    return place if place.exists() else fetch(SOURCES[name], root)


def fetch(source: ZarrSource, root: str | os.PathLike[str] | None = None) -> Path:
    """Downloads a data set with a progress bar, checks it and puts it below the data root; returns its place.

    It is unpacked and checked in a temporary folder of the data root and moved as a whole, so that a broken
    or interrupted download leaves nothing behind.

    Raises:
        ConnectionError: the download failed; the message names the file, the address and the place to put it.
        PermissionError: the data root cannot be written to.
        ValueError: not a zip, unsafe paths in it, or arrays other than the published ones.
    """
    base = data_root(root)
    place = base / source.folder
    by_hand = (
        f"To do it by hand: download {source.url} on a machine with a network and unpack it in {base}, so "
        f"that {place} exists; or set {ENVIRONMENT_VARIABLE} to a folder that holds {source.folder}."
    )
    with downloaded(f"{source.title} are", source.url, place, base, by_hand) as packed:
        unpacked = packed.parent / "unpacked"
        _unpack(packed, source, unpacked)
        _log.warning("checking the content of %s", source.folder)
        with ZarrArchive(unpacked / source.folder) as archive:
            for name in source.digests:
                check_digest(source, name, archive.slabs(name), f"what came from {source.url}", "try again")
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(unpacked / source.folder, place)
        except OSError:
            if not place.exists():
                raise  # otherwise another process was faster, and what it put there is the same
        return place


@contextmanager
def downloaded(what: str, url: str, place: Path, base: Path, by_hand: str) -> Iterator[Path]:
    """A file from `url`, with a progress bar, in a temporary folder of `base` that is gone afterwards.

    Args:
        what, place: what is missing, as "MNIST is", and where it was looked for: for the messages.
        by_hand: how to do without, likewise.

    Raises:
        ConnectionError: the download failed.
        PermissionError: `base` cannot be written to.
    """
    try:
        base.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".download-", dir=base))
    except OSError as error:
        raise PermissionError(
            f"{what} not at {place}, and nothing can be written to {base} ({error}). {by_hand}"
        ) from error
    try:
        _log.warning("%s not at %s: downloading %s into %s", what, place, url, base)
        file = temporary / PurePosixPath(url).name
        try:
            pooch.HTTPDownloader(progressbar=True, chunk_size=2**16)(url, str(file), None)
        except OSError as error:  # what requests raises derives from it
            raise ConnectionError(
                f"{what} not at {place}, and downloading {url} failed ({error}). {by_hand}"
            ) from error
        yield file
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_digest(source: ZarrSource, name: str, pieces: Iterable[np.ndarray], where: str, cure: str) -> None:
    """Compares an array, given in pieces along time, with the published one.

    Raises:
        ValueError: it differs; the message names the array, `where` it came from and the `cure`.
    """
    dtype = np.dtype("<i8" if name.startswith("meta/") else "<f4")
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(np.ascontiguousarray(piece, dtype=dtype).data)
    if digest.hexdigest() != source.digests[name]:
        raise ValueError(
            f"{name} of {where} is not the published array of {source.title}: SHA-256 {digest.hexdigest()}, "
            f"expected {source.digests[name]}. It is damaged or other data under its name; {cure}"
        )


def _unpack(packed: Path, source: ZarrSource, target: Path) -> None:
    """Unpacks the source's folder and nothing else, and refuses paths that lead out of it."""
    try:
        with zipfile.ZipFile(packed) as archive:
            members = [i for i in archive.infolist() if i.filename.startswith(source.folder + "/")]
            for member in members:
                if ".." in PurePosixPath(member.filename).parts or "\\" in member.filename:
                    raise ValueError(f"the zip from {source.url} holds the unsafe path {member.filename!r}: refused")
            if not members:
                raise ValueError(
                    f"the zip from {source.url} does not hold {source.folder}/; its publisher changed it"
                )
            archive.extractall(target, members)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"what came from {source.url} is not a whole zip file ({error}); try again") from error
