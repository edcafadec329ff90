"""Push-T: the 206 human demonstrations of Diffusion Policy (Chi et al., 2023), and the expert's that ship.

Lengths are in px of the 512 × 512 world, angles in rad. Recorded are `state` (N, 5): agent x, y, block x, y, angle;
`action` (N, 2), the position the agent is sent to; `keypoint` (N, 9, 2), nine points on the block (the human ones
only); and `img` (N, 96, 96, 3), RGB from 0 to 255 (the human ones only).
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.catalog import DemonstrationSource
from diffpolicy.datasets.downloads import Published, check_digest, resolve
from diffpolicy.datasets.drawn_frames import DrawnFrames
from diffpolicy.datasets.frames import FrameSource, ZarrFrames
from diffpolicy.datasets.sources.shipped import RATE, open_shipped
from diffpolicy.datasets.transforms import Batch, EpisodeTransform, StreamedAugmentation
from diffpolicy.datasets.windows import joined_frames
from diffpolicy.datasets.zarr_layout import ENDS, ZarrArchive
from diffpolicy.registry import lookup
from diffpolicy.util.errors import require
from diffpolicy.util.names import check

PUSHT = Published(
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

CORNERS = np.array(
    [(-60, 0), (60, 0), (60, 30), (15, 30), (15, 120), (-15, 120), (-15, 30), (-60, 30)], dtype=np.float64
)
"""The T block's corners in its own frame, px, (8, 2): round the outline, as the environment observes them."""

GOAL = np.array([256.0, 256.0, np.pi / 4])
"""The goal's pose: x, y in px, the angle in rad."""

_ENVIRONMENT = "diffpolicy/PushT-v0"  # draws what it observes
_WORLD = 512.0  # px, the side of the square world
_CURE = f"move it away to have {PUSHT.url} downloaded, or open your own data with dataset.name=zarr"
_DIGEST_FRAMES = 1024  # hashed at a time


class PushT(DemonstrationSource):
    """Demonstrations of Push-T; what can be observed follows from the recorded states, keypoints and images."""

    transforms = ("align", "mirror", "left_right")
    drawn = ("drawn",)
    rate = RATE
    units: ClassVar[dict[str, str]] = {"obs": "px", "agent": "px", "action": "px"}

    _points: ClassVar[str]  # the mode whose points on the block tell how far from done it is

    def observed(self, recorded: ReplayBuffer) -> ReplayBuffer:
        """Return `obs` (N, D), or `agent` (N, 2) beside images, and `action` (N, 2), float32.

        Where `dataset.action_key` names a mode, its vector (N, 2·K + 2) stands for the actions, for an estimator to
        learn.
        """
        key, seen = self.dataset.action_key, observe(recorded, str(self.mode))
        points = [mode for mode in ("keypoints", "corners") if mode in self.modes]
        check("dataset.action_key", key, ["action", *points])
        cure = "leave it out, or take dataset.action_key=corners"
        moves = "dataset.transforms=[left_right] with actions: it moves the goal"
        require(key != "action" or "left_right" not in self.dataset.transforms, moves, cure=cure)
        acts = recorded["action"] if key == "action" else observe(recorded, key)["obs"]
        return recorded.with_arrays({**seen, key: acts})

    def frames(self, recorded: ReplayBuffer) -> FrameSource | None:
        """Return the images, recorded or drawn, or None in modes without any."""
        cameras = self.observation.images
        expected = ["image"] if self.mode in ("pixels", *self.drawn) else []
        says = f"observation.images={cameras}"
        require(cameras == expected, says, f"{expected} with observation.mode={self.mode}")
        if not cameras:
            return None
        if self.mode == "pixels":
            return ZarrFrames(self._recording, {"image": "img"})
        draw, name = lookup("drawing", _ENVIRONMENT), f"{self.dataset.name}, drawn"
        return DrawnFrames(name, "image", draw, recorded["state"], recorded.episode_ends)

    @functools.cached_property
    def _recording(self) -> Path:
        path = resolve(PUSHT, self.data_root)
        with ZarrArchive(path) as archive:
            check_digest(PUSHT, "data/img", archive.slabs("data/img"), str(path), _CURE)
        return path

    def progress(self, recorded: ReplayBuffer) -> Tensor:
        """Return points on the block and the agent's position, whatever is observed."""
        return joined_frames(recorded.with_arrays(observe(recorded, self._points)), ["obs"])


@final
class HumanPushT(PushT):
    """The 206 human demonstrations, 25,650 frames; downloaded if the data root lacks them."""

    summary: ClassVar[str] = "Push-T by people, 206 episodes (Chi et al. 2023); downloaded"
    modes: ClassVar[dict[str, str]] = {
        "keypoints": "obs (20,): nine points on the block, x and y each, then the agent's position",
        "corners": "obs (18,): the block's eight corners in the order of CORNERS, then the agent's position",
        "state": "obs (5,): agent x, y, block x, y, block angle",
        "pixels": "agent (2,): its position; and the camera image (96, 96, 3)",
        "drawn": "agent (2,): its position; and the image (96, 96, 3), drawn again from the state",
    }
    _points = "keypoints"

    def recorded(self) -> ReplayBuffer:
        """Return the arrays that the mode needs, each compared with its published digest."""
        path = resolve(PUSHT, self.data_root)
        needs_points = (
            self._points in (self.mode, self.dataset.action_key) or self.dataset.time_to_success is not None
        )
        raw = ReplayBuffer.open(path, [*(["keypoint"] if needs_points else []), "state", "action"])
        for key in raw.keys():  # noqa: SIM118  a buffer is no mapping
            check_digest(PUSHT, f"data/{key}", _pieces(raw[key]), str(path), _CURE)
        check_digest(PUSHT, ENDS, [raw.episode_ends], str(path), _CURE)
        return raw


@final
class ExpertPushT(PushT):
    """The expert's demonstrations, which ship with the package."""

    summary: ClassVar[str] = "Push-T by a planning expert; ships with the package"
    modes: ClassVar[dict[str, str]] = {mode: HumanPushT.modes[mode] for mode in ("corners", "state", "drawn")}
    _points = "corners"

    def recorded(self) -> ReplayBuffer:
        """Return the recording, checked."""
        return open_shipped("pusht")


def observe(recorded: ReplayBuffer, mode: str) -> dict[str, np.ndarray]:
    """Return the vector that a mode observes of recorded frames: `obs` (N, D), or `agent` (N, 2) beside images."""
    state = recorded["state"]
    agent = state[:, :2]
    if mode in ("state", "pixels", "drawn"):
        return {"obs": state} if mode == "state" else {"agent": agent}
    points = recorded["keypoint"] if mode == "keypoints" else block_corners(state[:, 2:])
    return {"obs": np.concatenate([points.reshape(len(points), -1), agent], axis=1)}


@final
class Align(EpisodeTransform):
    """Moves each episode as one rigid body, so that its last block pose is the goal's.

    People stop when the block lies about right, at a coverage of 0.9 where success takes 0.95. Pushing is the same
    wherever the block is to go, so that each demonstration is an exact one of the pose that it did reach: hindsight
    relabeling (Andrychowicz et al. 2017) by a symmetry. The walls, 5 px off the world's edge, do not move along, and
    recorded images, which show the goal's mark where it is, cannot be changed so.
    """

    general = False
    adds = False

    def fit(self, buffer: ReplayBuffer) -> None:
        """Take the last pose of each episode's block, which `apply` moves to the goal."""
        self._last = buffer["state"][buffer.episode_ends - 1, 2:].astype(np.float64)

    def apply(self, buffer: ReplayBuffer) -> ReplayBuffer:
        """Return the episodes moved."""
        source = np.repeat(self._last, buffer.episode_lengths, axis=0)
        return _moved(buffer, source, np.broadcast_to(GOAL, source.shape))

    def undo(self, buffer: ReplayBuffer) -> ReplayBuffer:
        """Return the episodes where they were recorded."""
        target = np.repeat(self._last, buffer.episode_lengths, axis=0)
        return _moved(buffer, np.broadcast_to(GOAL, target.shape), target)


class _Reflection(StreamedAugmentation):
    """Reflects frames in an axis of symmetry of the T and the square world; its own inverse.

    The reflection of a T is a T. Points fixed to the block move with it and keep their places on it, which need not
    be symmetric ones.
    """

    general = False

    @abstractmethod
    def reflected(self, points: Any) -> Any:
        """Return the reflections of points (..., 2) px, arrays or tensors."""

    @abstractmethod
    def turned(self, angle: np.ndarray) -> np.ndarray:
        """Return the angles of reflected blocks, rad."""

    @abstractmethod
    def pictured(self, images: Tensor) -> Tensor:
        """Return the reflections of square images (..., H, W, C)."""

    def fit(self, buffer: ReplayBuffer) -> None:
        """Take the places on the block of the points that windows may hold in place of actions."""
        places = [CORNERS]
        if "keypoint" in buffer:
            pose = buffer["state"][:, 2:].astype(np.float64)
            offsets = buffer["keypoint"] - pose[:, None, :2]
            turned_back = np.einsum("nij,nkj->nki", _rotation(-pose[:, 2]), offsets)
            places.append(np.median(turned_back, axis=0))  # some recorded keypoints lag behind
        self._swaps = {len(points): _swap(points) for points in places}

    def apply(self, buffer: ReplayBuffer) -> ReplayBuffer:
        """Return the mirror images of the episodes."""
        check("array", "state", buffer.keys())
        state = buffer["state"]
        positions = self.reflected(state[:, :4].reshape(-1, 2, 2)).reshape(-1, 4)
        angle = self.turned(state[:, 4:]) % (2 * np.pi)
        changed = {"state": np.concatenate([positions, angle], axis=1).astype(state.dtype)}
        if "action" in buffer:
            changed["action"] = self.reflected(buffer["action"])
        if "keypoint" in buffer:
            points, pose, to = buffer["keypoint"], state[:, 2:], changed["state"][:, 2:]
            turn = _rotation(self.turned(pose[:, 2]).astype(np.float64) - pose[:, 2])
            offsets = points - pose[:, None, :2].astype(np.float64)
            moved = to[:, None, :2] + np.einsum("nij,nkj->nki", turn, offsets)
            changed["keypoint"] = moved.astype(points.dtype)
        return buffer.with_arrays({key: changed[key] for key in buffer.keys()})  # noqa: SIM118

    def undo(self, buffer: ReplayBuffer) -> ReplayBuffer:
        """Return the mirror images of mirror images: the episodes themselves."""
        return self.apply(buffer)

    def change(self, batch: Batch, chosen: Tensor) -> dict[str, Tensor]:
        """Return a batch with the `chosen` windows, (B,) bool, reflected.

        Args:
            batch: "obs" (B, T_o, 2) the agent's position, "action" (B, T_p, 2), or in its place what a mode observes,
                (B, T_p, 2·K + 2); images (B, T_o, H, W, C) of any name, square ones; and what does not change in a
                mirror.
            chosen: (B,) bool.
        """
        at = chosen.nonzero()[:, 0]
        changed = dict(batch)
        for name, values in batch.items():
            if name in ("obs", "action"):
                points = self.reflected(values[at].unflatten(-1, (-1, 2)))
                if points.shape[2] > 1:
                    block = self._swaps[points.shape[2] - 1].to(points) @ points[:, :, :-1]
                    points = torch.cat([block, points[:, :, -1:]], dim=2)
                changed[name] = values.index_copy(0, at, points.flatten(2))
            elif values.ndim == 5:
                changed[name] = values.index_copy(0, at, self.pictured(values[at]))
        return changed


@final
class Mirror(_Reflection):
    """Reflects frames in the goal's axis of symmetry, x + y = 512 px.

    The goal at (256, 256, π/4) is symmetric about that line, too (the walls to 1 px), so that the mirror image of a
    demonstration is one as well: positions become (512 - y, 512 - x), block angles π/2 - angle, in [0, 2π) as the
    environment observes them.
    """

    def reflected(self, points: Any) -> Any:
        """Return (512 - y, 512 - x)."""
        return _WORLD - points[..., [1, 0]]

    def turned(self, angle: np.ndarray) -> np.ndarray:
        """Return π/2 - angle."""
        return np.pi / 2 - angle

    def pictured(self, images: Tensor) -> Tensor:
        """Return images reflected in the line from their lower left to their upper right corner."""
        return images.transpose(-3, -2).flip(-3, -2)


@final
class LeftRight(_Reflection):
    """Reflects frames in x = 256 px, with the goal's mark: for telling where the block is, and not what to do."""

    def reflected(self, points: Any) -> Any:
        """Return (512 - x, y)."""
        if isinstance(points, Tensor):
            return torch.stack([_WORLD - points[..., 0], points[..., 1]], dim=-1)
        return np.stack([_WORLD - points[..., 0], points[..., 1]], axis=-1)

    def turned(self, angle: np.ndarray) -> np.ndarray:
        """Return -angle."""
        return -angle

    def pictured(self, images: Tensor) -> Tensor:
        """Return images with left and right exchanged."""
        return images.flip(-2)


def _swap(places: np.ndarray) -> Tensor:
    """Return (K, K) that makes, of points at places (K, 2) on a block, those at the reflected places.

    Every point of a rigid body is the same affine combination of others wherever it lies.
    """
    whole = np.concatenate([places, np.ones((len(places), 1))], axis=1)
    return torch.from_numpy((whole * [-1.0, 1.0, 1.0]) @ np.linalg.pinv(whole))


def _moved(buffer: ReplayBuffer, source: np.ndarray, target: np.ndarray) -> ReplayBuffer:
    """The frames under the rigid motions that carry the poses `source` (N, 3) to `target` (N, 3)."""
    turn = _rotation(target[:, 2] - source[:, 2])

    def points(values: np.ndarray) -> np.ndarray:
        """(N, K, 2) -> the same, turned about the source's position and carried to the target's."""
        offsets = values.astype(np.float64) - source[:, None, :2]
        return target[:, None, :2] + np.einsum("nij,nkj->nki", turn, offsets)

    def moved(name: str, values: np.ndarray) -> np.ndarray:
        if name != "state":
            return points(values.reshape(len(values), -1, 2)).reshape(values.shape)
        positions = points(values[:, :4].reshape(-1, 2, 2)).reshape(-1, 4)
        angle = (values[:, 4:].astype(np.float64) + target[:, 2:] - source[:, 2:]) % (2 * np.pi)
        return np.concatenate([positions, angle], axis=1)

    names = buffer.keys()
    return buffer.with_arrays({name: moved(name, buffer[name]).astype(buffer[name].dtype) for name in names})


def block_corners(pose: np.ndarray) -> np.ndarray:
    """Return the world positions of the T block's corners, position + R(angle)·corner.

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
