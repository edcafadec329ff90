"""Published data sets: where they lie, and how they get there.

The data root is, in this order, what the caller names, the environment variable `DIFFPOLICY_DATA`, or the user's
cache directory. What it lacks is downloaded into it and checked by content: the SHA-256 of the decoded arrays, which
holds whatever the container.
"""

from __future__ import annotations

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

from diffpolicy.datasets.zarr_layout import ZarrArchive
from diffpolicy.util.errors import explain, require
from diffpolicy.util.files import new_digest

ENVIRONMENT_VARIABLE = "DIFFPOLICY_DATA"

_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class Published:
    """A published zarr data set.

    Args:
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


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of the data sets: `root`, else `DIFFPOLICY_DATA` (if not empty), else the user's cache."""
    chosen = root or os.environ.get(ENVIRONMENT_VARIABLE) or pooch.os_cache("diffpolicy")
    return Path(chosen).expanduser()


def resolve(published: Published, root: str | os.PathLike[str] | None = None) -> Path:
    """Return where a data set lies; it is downloaded first if the data root lacks it.

    Args:
        published: the data set.
        root: the data root.

    Raises:
        OSError: there is no network, or the data root cannot be written to, see `fetch`.
        ValueError: what was downloaded is not what was published.
    """
    place = data_root(root) / published.folder
    return place if place.exists() else fetch(published, root)


def fetch(published: Published, root: str | os.PathLike[str] | None = None) -> Path:
    """Download a data set with a progress bar, check it, put it below the data root and return its place.

    It is unpacked and checked in a temporary folder of the data root and moved as a whole, so that a broken or
    interrupted download leaves nothing behind.

    Args:
        published: the data set.
        root: the data root.

    Raises:
        ConnectionError: the download failed; the message names the file, the address and the place to put it.
        PermissionError: the data root cannot be written to.
        ValueError: not a zip, unsafe paths in it, or arrays other than the published ones.
    """
    base = data_root(root)
    place = base / published.folder
    by_hand = (
        f"download {published.url} and unpack it in {base}, so that {place} exists, or set {ENVIRONMENT_VARIABLE} to "
        f"a folder that holds {published.folder}"
    )
    with downloaded(f"{published.title} are", published.url, place, base, by_hand) as packed:
        unpacked = packed.parent / "unpacked"
        _unpack(packed, published, unpacked)
        _log.warning("checking the content of %s", published.folder)
        with ZarrArchive(unpacked / published.folder) as archive:
            for name in published.digests:
                check_digest(published, name, archive.slabs(name), f"what came from {published.url}", "try again")
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(unpacked / published.folder, place)
        except OSError:
            if not place.exists():
                raise  # otherwise another process was faster, and what it put there is the same
        return place


@contextmanager
def downloaded(what: str, url: str, place: Path, base: Path, by_hand: str) -> Iterator[Path]:
    """Yield a file from `url`, downloaded with a progress bar into a temporary folder that is gone afterwards.

    Args:
        what: what is missing, for messages, such as "MNIST is".
        url: of the file.
        place: where it was looked for, for messages.
        base: the folder to work in.
        by_hand: how to do without a network, for messages.

    Raises:
        ConnectionError: the download failed.
        PermissionError: `base` cannot be written to.
    """
    try:
        base.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".download-", dir=base))
    except OSError as error:
        says = f"{what} not at {place}, and nothing can be written to {base} ({error})"
        raise PermissionError(explain(says, cure=by_hand)) from error
    try:
        _log.warning("%s not at %s: downloading %s into %s", what, place, url, base)
        file = temporary / PurePosixPath(url).name
        try:
            pooch.HTTPDownloader(progressbar=True, chunk_size=2**16)(url, str(file), None)
        except OSError as error:  # what requests raises derives from it
            says = f"{what} not at {place}, and downloading {url} failed ({error})"
            raise ConnectionError(explain(says, cure=by_hand)) from error
        yield file
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_digest(published: Published, name: str, pieces: Iterable[np.ndarray], where: str, cure: str) -> None:
    """Raise ValueError unless an array is the published one.

    Args:
        published: the data set.
        name: of the array, such as "data/state".
        pieces: the array, in pieces along time.
        where: where it came from, for the message.
        cure: what to do, for the message.
    """
    dtype = np.dtype("<i8" if name.startswith("meta/") else "<f4")
    digest = new_digest()
    for piece in pieces:
        digest.update(np.ascontiguousarray(piece, dtype=dtype).data)
    found, expected = digest.hexdigest(), published.digests[name]
    says = f"{name} of {where} is not the published array of {published.title} (SHA-256 {found})"
    require(found == expected, says, expected, cure)


def _unpack(packed: Path, published: Published, target: Path) -> None:
    """Unpack the data set's folder and nothing else, and refuse paths that lead out of it."""
    try:
        with zipfile.ZipFile(packed) as archive:
            members = [i for i in archive.infolist() if i.filename.startswith(published.folder + "/")]
            unsafe = [i.filename for i in members if ".." in PurePosixPath(i.filename).parts or "\\" in i.filename]
            require(not unsafe, f"the zip from {published.url} holds the unsafe paths {unsafe}: refused")
            says = f"the zip from {published.url} does not hold {published.folder}/; its publisher changed it"
            require(members, says)
            archive.extractall(target, members)
    except (zipfile.BadZipFile, zlib.error) as error:
        says = f"what came from {published.url} is not a whole zip file ({error})"
        raise ValueError(explain(says, cure="try again")) from error
