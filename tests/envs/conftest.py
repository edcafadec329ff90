"""The published demonstrations, read once for all tests of this folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class Demonstrations:
    state: np.ndarray  # (N, 5)
    action: np.ndarray  # (N, 2)
    keypoint: np.ndarray  # (N, 18)
    n_contacts: np.ndarray  # (N,)
    starts: np.ndarray  # (206,)
    ends: np.ndarray  # (206,)
    images: Any  # zarr array (N, 96, 96, 3), read where it is indexed


@pytest.fixture(scope="session")
def demonstrations() -> Demonstrations:
    root = os.environ.get("DIFFPOLICY_DATA")
    path = Path(root or ".") / "pusht" / "pusht_cchi_v7_replay.zarr"
    if root is None or not path.is_dir():
        pytest.skip("needs DIFFPOLICY_DATA to name the folder that holds pusht/pusht_cchi_v7_replay.zarr")
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(path, mode="r")
    ends = group["meta/episode_ends"][:]
    return Demonstrations(
        state=group["data/state"][:].astype(np.float64),
        action=group["data/action"][:],
        keypoint=group["data/keypoint"][:].reshape(-1, 18),
        n_contacts=group["data/n_contacts"][:, 0],
        starts=np.concatenate([[0], ends[:-1]]),
        ends=ends,
        images=group["data/img"],
    )
