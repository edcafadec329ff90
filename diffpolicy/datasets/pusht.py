"""The 206 human Push-T demonstrations of Diffusion Policy (Chi et al., 2023): 25,650 frames at 10 Hz."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from diffpolicy.datasets.downloads import PUSHT, check_digest, resolve
from diffpolicy.datasets.replay_buffer import ReplayBuffer
from diffpolicy.datasets.zarr_layout import ENDS, unknown

CORNERS = np.array(
    [(-60, 0), (60, 0), (60, 30), (15, 30), (15, 120), (-15, 120), (-15, 30), (-60, 30)], dtype=np.float64
)
"""The T block's corners in its own frame, px, (8, 2): round the outline, as the environment observes them."""

_READ = {
    "keypoints": ("keypoint", "state", "action"),
    "corners": ("state", "action"),
    "state": ("state", "action"),
    "pixels": ("img", "state", "action"),
}
_DIGEST_FRAMES = 1024  # images are hashed as float32, that is at four times their size: so many at a time


def load_pusht(obs: str = "keypoints", root: str | os.PathLike[str] | None = None) -> ReplayBuffer:
    """The demonstrations, downloaded if the data root lacks them, with one kind of observation.

    Lengths in px of the 512 × 512 world, the angle in rad; all arrays float32 unless said otherwise.

    Args:
        obs: which arrays stand beside `action` (N, 2), the position the agent is sent to:
            `keypoints`: `obs` (N, 20), the data set's nine points on the block, x and y each, then the agent;
            `corners`: `obs` (N, 18), the block's eight corners in the order of `CORNERS`, then the agent;
            `state`: `obs` (N, 5), agent x, agent y, block x, block y, block angle;
            `pixels`: `image` (N, 96, 96, 3) uint8 RGB and `agent` (N, 2).
        root: the data root (see `downloads.data_root`).

    Raises:
        ValueError: an unknown `obs`, or files that are not the published ones: every array read is compared
            with its published digest.
        OSError: see `downloads.resolve`.
    """
    if obs not in _READ:
        raise ValueError(unknown("kind of observation", obs, _READ))
    path = resolve("pusht", root)
    raw = ReplayBuffer.open(path, keys=_READ[obs])
    cure = f"move it away to have {PUSHT.url} downloaded, or open your own data with ReplayBuffer.open"
    for key in _READ[obs]:
        check_digest(PUSHT, f"data/{key}", _pieces(raw[key]), str(path), cure)
    check_digest(PUSHT, ENDS, [raw.episode_ends], str(path), cure)

    state = raw["state"]
    agent = state[:, :2]
    if obs == "pixels":
        data = {"image": raw["img"], "agent": agent}
    elif obs == "state":
        data = {"obs": state}
    else:
        points = raw["keypoint"] if obs == "keypoints" else block_corners(state[:, 2:])
        data = {"obs": np.concatenate([points.reshape(len(points), -1), agent], axis=1)}
    return ReplayBuffer({**data, "action": raw["action"]}, raw.episode_ends, raw.attrs)


def block_corners(pose: np.ndarray) -> np.ndarray:
    """The world positions of the T block's corners, position + R(angle)·corner.

    Args:
        pose: (..., 3) block x, block y in px, angle in rad.

    Returns:
        (..., 8, 2) px, of the pose's dtype, in the order of `CORNERS`.
    """
    wide = pose.astype(np.float64)
    cos, sin = np.cos(wide[..., 2]), np.sin(wide[..., 2])
    rotation = np.stack([np.stack([cos, -sin], axis=-1), np.stack([sin, cos], axis=-1)], axis=-2)
    corners = wide[..., None, :2] + np.einsum("...ij,kj->...ki", rotation, CORNERS)
    return corners.astype(pose.dtype)


def _pieces(values: np.ndarray) -> Iterator[np.ndarray]:
    return (values[i : i + _DIGEST_FRAMES] for i in range(0, len(values), _DIGEST_FRAMES))
