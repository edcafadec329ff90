"""The 206 human Push-T demonstrations of Diffusion Policy (Chi et al., 2023): 25,650 frames at 10 Hz."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from diffpolicy.datasets.downloads import PUSHT, check_digest, resolve
from diffpolicy.datasets.replay_buffer import ReplayBuffer
from diffpolicy.datasets.shipped import open_shipped
from diffpolicy.datasets.zarr_layout import ENDS, ZarrArchive, unknown

CORNERS = np.array(
    [(-60, 0), (60, 0), (60, 30), (15, 30), (15, 120), (-15, 120), (-15, 30), (-60, 30)], dtype=np.float64
)
"""The T block's corners in its own frame, px, (8, 2): round the outline, as the environment observes them."""

GOAL = np.array([256.0, 256.0, np.pi / 4])
"""The goal's pose: x, y in px, the angle in rad."""

_READ = {
    "keypoints": ("keypoint", "state", "action"),
    "corners": ("state", "action"),
    "state": ("state", "action"),
    "agent": ("state", "action"),
    "pixels": ("img", "state", "action"),
}
_CURE = f"move it away to have {PUSHT.url} downloaded, or open your own data with ReplayBuffer.open"
_WORLD = 512.0  # px, the side of the square world
_DIGEST_FRAMES = 1024  # images are hashed as float32, that is at four times their size: so many at a time


def load_pusht(
    obs: str = "keypoints",
    root: str | os.PathLike[str] | None = None,
    mirrored: bool = False,
    aligned: bool = False,
) -> ReplayBuffer:
    """The demonstrations, downloaded if the data root lacks them, with one kind of observation.

    Lengths in px of the 512 × 512 world, the angle in rad; all arrays float32 unless said otherwise.

    Args:
        obs: which arrays stand beside `action` (N, 2), the position the agent is sent to:
            `keypoints`: `obs` (N, 20), the data set's nine points on the block, x and y each, then the agent;
            `corners`: `obs` (N, 18), the block's eight corners in the order of `CORNERS`, then the agent;
            `state`: `obs` (N, 5), agent x, agent y, block x, block y, block angle;
            `agent`: `agent` (N, 2), its position alone, to stand beside images that stay on disk;
            `pixels`: `image` (N, 96, 96, 3) uint8 RGB and `agent` (N, 2).
        root: the data root (see `downloads.data_root`).
        mirrored: the demonstrations as seen in a mirror, see `mirror`.
        aligned: the demonstrations moved so that each ends on the goal, see `align`.

    Raises:
        ValueError: an unknown `obs`, images to align, or files that are not the published ones: every array read is
            compared with its published digest.
        OSError: see `downloads.resolve`.
    """
    if obs not in _READ:
        raise ValueError(unknown("kind of observation", obs, _READ))
    _check_alignable(obs, aligned)
    path = resolve("pusht", root)
    raw = ReplayBuffer.open(path, keys=_READ[obs])
    for key in _READ[obs]:
        check_digest(PUSHT, f"data/{key}", _pieces(raw[key]), str(path), _CURE)
    check_digest(PUSHT, ENDS, [raw.episode_ends], str(path), _CURE)

    seen = {key: raw[key] for key in _READ[obs]}
    seen = align(seen, raw.episode_ends) if aligned else seen
    seen = mirror(seen) if mirrored else seen
    return ReplayBuffer({**_observed(seen, obs), "action": seen["action"]}, raw.episode_ends, raw.attrs)


def pusht_images(root: str | os.PathLike[str] | None = None) -> Path:
    """Where the recording lies whose array `img` holds the images, float32; downloaded if the data root lacks it.

    Raises:
        ValueError: images that are not the published ones: they are compared with their digest, piece by piece.
        OSError: see `downloads.resolve`.
    """
    path = resolve("pusht", root)
    with ZarrArchive(path) as archive:
        check_digest(PUSHT, "data/img", archive.slabs("data/img"), str(path), _CURE)
    return path


def load_expert_pusht(obs: str = "corners", mirrored: bool = False, aligned: bool = False) -> ReplayBuffer:
    """The expert's demonstrations of Push-T that ship with the package, as `load_pusht` gives the human ones.

    Raises:
        ValueError: an observation that needs more than the recorded states, or a damaged recording.
    """
    if obs not in ("corners", "state"):
        raise ValueError(f"the expert's Push-T is observed as corners or state, not as {obs!r}")
    raw = open_shipped("pusht")
    seen = {key: raw[key] for key in ("state", "action")}
    seen = align(seen, raw.episode_ends) if aligned else seen
    seen = mirror(seen) if mirrored else seen
    return ReplayBuffer({**_observed(seen, obs), "action": seen["action"]}, raw.episode_ends, raw.attrs)


def _observed(seen: Mapping[str, np.ndarray], obs: str) -> dict[str, np.ndarray]:
    state = seen["state"]
    agent = state[:, :2]
    if obs == "pixels":
        return {"image": seen["img"], "agent": agent}
    if obs in ("state", "agent"):
        return {"obs": state} if obs == "state" else {"agent": agent}
    points = seen["keypoint"] if obs == "keypoints" else block_corners(state[:, 2:])
    return {"obs": np.concatenate([points.reshape(len(points), -1), agent], axis=1)}


def _check_alignable(obs: str, aligned: bool) -> None:
    if aligned and obs in ("pixels", "agent"):
        raise ValueError(
            "demonstrations seen in images cannot be aligned with the goal, whose mark the images show where it is; "
            "take dataset.align=false, or observe keypoints, corners or state"
        )


def align(frames: Mapping[str, np.ndarray], episode_ends: np.ndarray) -> dict[str, np.ndarray]:
    """Frames moved, each episode as one rigid body, so that its last block pose is the goal's.

    People stop when the block lies about right, at a coverage of 0.9 where success takes 0.95. Pushing is the same
    wherever the block is to go, so that each demonstration is an exact one of the pose that it did reach: hindsight
    relabelling (Andrychowicz et al. 2017) by a symmetry. The walls, 5 px off the world's edge, do not move along.

    Args:
        frames: "state" (N, 5), and "action" (N, 2) and "keypoint" (N, 9, 2) where they are to move along.
        episode_ends: (E,) cumulative, exclusive.
    """
    state = frames["state"].astype(np.float64)
    lengths = np.diff(episode_ends, prepend=0)
    last = np.repeat(state[np.asarray(episode_ends) - 1, 2:], lengths, axis=0)
    turn = _rotation(GOAL[2] - last[:, 2])

    def moved(points: np.ndarray) -> np.ndarray:
        """(N, K, 2) -> the same, turned about the last position and carried to the goal's."""
        return GOAL[:2] + np.einsum("nij,nkj->nki", turn, points - last[:, None, :2])

    positions = moved(state[:, :4].reshape(-1, 2, 2)).reshape(-1, 4)
    angle = (state[:, 4:] + GOAL[2] - last[:, 2:]) % (2 * np.pi)
    aligned = {"state": np.concatenate([positions, angle], axis=1)}
    if "action" in frames:
        aligned["action"] = moved(frames["action"][:, None].astype(np.float64))[:, 0]
    if "keypoint" in frames:
        aligned["keypoint"] = moved(frames["keypoint"].astype(np.float64))
    return {key: values.astype(frames[key].dtype) for key, values in aligned.items()}


def mirror(frames: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Frames reflected in the goal's axis of symmetry, x + y = 512 px.

    The T, its goal at (256, 256, π/4) and the square world are symmetric about that line (the walls to 1 px), so
    the mirror image of a demonstration is one as well: positions become (512 - y, 512 - x), block angles
    π/2 - angle, in [0, 2π) as the environment observes them. Points fixed to the block move with it; they keep their
    places on the block, which need not be symmetric ones.

    Args:
        frames: of "state" (N, 5), "action" (N, 2), "keypoint" (N, 9, 2) and "img" (N, H, W, 3) those to reflect;
            keypoints need the state beside them.
    """
    reflected: dict[str, np.ndarray] = {}
    if "state" in frames:
        state = frames["state"]
        positions = _WORLD - state[:, [1, 0, 3, 2]]
        angle = (np.pi / 2 - state[:, 4:]) % (2 * np.pi)
        reflected["state"] = np.concatenate([positions, angle], axis=1).astype(state.dtype)
    if "action" in frames:
        reflected["action"] = _WORLD - frames["action"][:, ::-1]
    if "img" in frames:
        reflected["img"] = np.ascontiguousarray(frames["img"].swapaxes(1, 2)[:, ::-1, ::-1])
    if "keypoint" in frames:
        points, pose, to = frames["keypoint"], frames["state"][:, 2:], reflected["state"][:, 2:]
        turn = _rotation((np.pi / 2 - pose[:, 2]).astype(np.float64) - pose[:, 2])
        moved = to[:, None, :2] + np.einsum("nij,nkj->nki", turn, points - pose[:, None, :2].astype(np.float64))
        reflected["keypoint"] = moved.astype(points.dtype)
    return reflected


def mirror_windows(batch: Mapping[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
    """A batch of windows with the `chosen` rows, (B,) bool, reflected as by `mirror`.

    Args:
        batch: "obs" (B, T_o, 2) the agent's position, "action" (B, T_p, 2), images (B, T_o, H, W, C) of any name,
            square ones, and what does not change in a mirror.
    """
    at = chosen.nonzero()[:, 0]
    reflected = dict(batch)
    for name, values in batch.items():
        if name in ("obs", "action"):
            reflected[name] = values.index_copy(0, at, _WORLD - values[at].flip(-1))
        elif values.ndim == 5:
            reflected[name] = values.index_copy(0, at, values[at].transpose(2, 3).flip(2, 3))
    return reflected


def block_corners(pose: np.ndarray) -> np.ndarray:
    """The world positions of the T block's corners, position + R(angle)·corner.

    Args:
        pose: (..., 3) block x, block y in px, angle in rad.

    Returns:
        (..., 8, 2) px, of the pose's dtype, in the order of `CORNERS`.
    """
    wide = pose.astype(np.float64)
    corners = wide[..., None, :2] + np.einsum("...ij,kj->...ki", _rotation(wide[..., 2]), CORNERS)
    return corners.astype(pose.dtype)


def _rotation(angle: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], axis=-1), np.stack([sin, cos], axis=-1)], axis=-2)


def _pieces(values: np.ndarray) -> Iterator[np.ndarray]:
    return (values[i : i + _DIGEST_FRAMES] for i in range(0, len(values), _DIGEST_FRAMES))
