import zipfile
from collections.abc import Callable
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr

Arrays = dict[str, np.ndarray]


@pytest.fixture
def arrays() -> Arrays:
    """Two episodes of 13 and 17 frames, with images as float32 like the published ones."""
    rng = np.random.default_rng(0)
    return {
        "data/state": rng.normal(size=(30, 5)).astype(np.float32),
        "data/keypoint": rng.normal(size=(30, 9, 2)).astype(np.float32),
        "data/reward": np.zeros(30),  # whole chunks of the fill value
        "data/img": rng.integers(0, 256, (30, 6, 6, 3)).astype(np.float32),
        "meta/episode_ends": np.array([13, 30]),
    }


@pytest.fixture
def write_published() -> Callable[..., Path]:
    """Writes arrays as the published data sets are: zarr v2, blosc, 7 frames a chunk."""

    def write(path: Path, arrays: Arrays, separator: str = ".", **options: object) -> Path:
        settings = {"compressors": numcodecs.Blosc("zstd", 5, 2), **options}
        root = zarr.create_group(path, zarr_format=2)
        for name, values in arrays.items():
            root.create_array(
                name,
                data=values,
                chunks=(7, *values.shape[1:]),
                chunk_key_encoding={"name": "v2", "separator": separator},
                config={"write_empty_chunks": True},
                **settings,
            )
        return path

    return write


@pytest.fixture
def pack() -> Callable[[Path, Path, str], Path]:
    """Packs a folder into a zip, all names below a prefix such as `folder/name.zarr/`."""

    def pack_folder(folder: Path, target: Path, prefix: str = "") -> Path:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, prefix + file.relative_to(folder).as_posix())
        return target

    return pack_folder
