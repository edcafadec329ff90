"""Training windows by name, from a config."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.datasets.pace import pace_weights
from diffpolicy.datasets.pusht import load_expert_pusht, load_pusht, mirror_windows, pusht_images
from diffpolicy.datasets.replay_buffer import ReplayBuffer, select_episodes
from diffpolicy.datasets.shipped import SHIPPED, open_shipped
from diffpolicy.datasets.streaming import ImageWindows, WindowStream
from diffpolicy.datasets.windows import BatchSampler, WindowDataset

_SHIPPED = tuple(name for name in SHIPPED if name != "pusht")


@dataclass
class StreamConfig:
    """How images are read while training, see `WindowStream`: `memory` in MiB bounds what they take."""

    pool: int = 16
    run: int = 256
    memory: float = 1024


@dataclass
class DatasetConfig:
    """Which demonstrations.

    Args:
        name: "pusht", the human Push-T demonstrations; "expert_pusht", the expert's, "pushblocks" or "detour", which
            ship with the package; or "zarr", one's own replay buffer at `path`. ("mnist" is of `task=mnist` and reads
            none of the settings below.)
        obs: of Push-T: "keypoints" (the human ones only), "corners", "state", or "pixels" (the human ones only): the
            agent's position, and images "image" that stay on disk.
        path, obs_keys, action_key: where one's own is, and which arrays make up observation and action.
        image_keys: which arrays of one's own are images; they stay on disk.
        stream: how images are read.
        episodes: how many training episodes, drawn with `seed`; None takes all.
        validation: share of the episodes held out for the validation loss.
        mirror: of Push-T: adds the mirror image of every training episode, see `pusht.mirror`; where images stream
            from disk, every window of a batch is mirrored with probability 1/2 instead.
        align: of Push-T: moves every episode so that it ends with the block on the goal, see `pusht.align`; not for
            images.
        pace: temperature of the windows' weights by how fast their demonstrations were, see `pace.pace_weights`; for
            demonstrations that end when the task is done. None weights all alike.
        normalize: "limits" or "gaussian" for "obs" and "action"; limits unless named.
    """

    name: str = "pusht"
    obs: str = "keypoints"
    path: str | None = None
    obs_keys: list[str] = field(default_factory=lambda: ["obs"])
    action_key: str = "action"
    image_keys: list[str] = field(default_factory=list)
    stream: StreamConfig = field(default_factory=StreamConfig)
    episodes: int | None = None
    seed: int = 42
    validation: float = 0.05
    mirror: bool = False
    align: bool = False
    pace: float | None = None
    normalize: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Windows:
    """Training and validation windows, and the normaliser fitted on the training episodes (and mirror images).

    `mirror`: half of the windows of every training batch, drawn at random, are to be mirrored.
    """

    train: WindowDataset | ImageWindows
    validation: WindowDataset | ImageWindows | None
    normalizer: Normalizer
    mirror: bool = False


def load_buffer(config: DatasetConfig, data_root: str | None = None, mirrored: bool = False) -> ReplayBuffer:
    """The demonstrations a config names, or their mirror images: the numbers, without images.

    Raises:
        ValueError: an unknown name, no path for one's own, other than Push-T to mirror or align, or images to align.
        FileNotFoundError and others: as `load_pusht` and `ReplayBuffer.open`.
    """
    if config.name == "pusht":
        return load_pusht("agent" if config.obs == "pixels" else config.obs, data_root, mirrored, config.align)
    if config.name == "expert_pusht":
        return load_expert_pusht(config.obs, mirrored, config.align)
    if config.name not in ("zarr", *_SHIPPED):
        known = ", ".join(map(repr, ("pusht", "expert_pusht", *_SHIPPED)))
        raise ValueError(f"unknown dataset {config.name!r}; choose {known}, or 'zarr' with dataset.path for your own")
    if config.name == "zarr" and config.path is None:
        raise ValueError("dataset.name=zarr reads your own demonstrations: say where they are with dataset.path")
    if config.mirror:
        raise ValueError("only Push-T's mirror images are known: dataset.mirror=false, as task=own has it")
    if config.align:
        raise ValueError("only Push-T's goal is known, to align demonstrations with: dataset.align=false")
    if config.name in _SHIPPED:
        return open_shipped(config.name)
    return ReplayBuffer.open(config.path, [*config.obs_keys, config.action_key])


def load_windows(
    config: DatasetConfig,
    horizon: int,
    obs_horizon: int,
    action_horizon: int,
    data_root: str | None = None,
    device: str | torch.device = "cpu",
) -> Windows:
    """Select the episodes, cut them into windows that live on `device`, and fit the normaliser.

    Raises:
        ValueError: names, numbers or horizons that do not fit the data; says which.
    """
    buffer = load_buffer(config, data_root)
    chosen, held_out = select_episodes(buffer.n_episodes, config.episodes, config.seed, config.validation)

    keys = (config.obs_keys, config.action_key, horizon, obs_horizon, action_horizon)
    path, cameras = _images(config, data_root)

    def windows(part: ReplayBuffer, weights: Tensor | None = None) -> WindowDataset | ImageWindows:
        if path:
            return ImageWindows(part, path, cameras, *keys, weights)
        return WindowDataset(part, *keys, device, weights)

    training = seen = buffer.subset(chosen)
    weights = None if config.pace is None else _paces(config, data_root, chosen)
    if config.mirror:
        seen = training.joined(load_buffer(config, data_root, mirrored=True).subset(chosen))
    copies = 1 if path else seen.n_steps // training.n_steps
    train = windows(training if path else seen, None if weights is None else weights.repeat(copies))
    of_all = WindowDataset(seen, *keys) if path else train
    normalizer = Normalizer.fit({"obs": of_all.all_obs(), "action": of_all.all_actions()}, config.normalize)
    validation = windows(buffer.subset(held_out)) if len(held_out) else None
    return Windows(train, validation, normalizer, mirror=bool(path) and config.mirror)


@contextmanager
def open_batches(
    windows: Windows,
    batch_size: int,
    seed: int,
    stream: StreamConfig,
    share: tuple[int, int] = (0, 1),
    device: str | torch.device = "cpu",
) -> Iterator[Callable[[int], dict[str, Tensor]]]:
    """The training batches by step number, see `BatchSampler` and `WindowStream`.

    Args:
        share: (rank, world), whose rows of every batch are wanted.
        device: where the windows live, if they live in memory.

    Raises:
        ValueError: as these two.
    """
    rank, world = share
    rows = slice(rank * batch_size // world, (rank + 1) * batch_size // world)
    if isinstance(windows.train, ImageWindows):
        with ExitStack() as opened:
            for source in (windows.train, windows.validation):
                if source is not None:
                    opened.enter_context(source)
            batches = opened.enter_context(
                WindowStream(windows.train, batch_size, seed, stream.pool, stream.run, stream.memory, share)
            )
            yield _half_mirrored(batches, batch_size, seed, rows) if windows.mirror else batches.__getitem__
    else:
        sampler = BatchSampler(len(windows.train), batch_size, seed, device)
        yield lambda step: windows.train.batch(sampler[step][rows])


def _paces(config: DatasetConfig, data_root: str | None, chosen: np.ndarray) -> Tensor:
    """(N,) the weights of the training episodes' frames: of Push-T by points on the block, whatever is observed."""
    if points := {"pusht": "keypoints", "expert_pusht": "corners"}.get(config.name):
        # How far apart they end is the measure of far from done: as recorded, not aligned.
        config = dataclasses.replace(config, obs=points, obs_keys=["obs"], align=False)
    buffer = load_buffer(config, data_root).subset(chosen)
    frames = WindowDataset(buffer, config.obs_keys, config.action_key, 1, 1, 1).all_obs()
    return pace_weights(frames, buffer.episode_lengths, config.pace)


def _half_mirrored(
    batches: WindowStream, batch_size: int, seed: int, rows: slice
) -> Callable[[int], dict[str, Tensor]]:
    """Batches in which every row is mirrored with probability 1/2, by the seed and the step."""

    def at(step: int) -> dict[str, Tensor]:
        chosen = np.random.default_rng([seed, step]).random(batch_size) < 0.5
        return mirror_windows(batches[step], torch.from_numpy(chosen[rows]))

    return at


def _images(config: DatasetConfig, data_root: str | None) -> tuple[str | Path | None, dict[str, str]]:
    """The recording that holds the images a config names, and which, by their names in a batch; or none."""
    if config.name == "pusht" and config.obs == "pixels":
        return pusht_images(data_root), {"image": "img"}
    if config.image_keys and config.name != "zarr":
        raise ValueError(
            f"dataset.image_keys={config.image_keys} name images of one's own (dataset.name=zarr); those of Push-T "
            "come with dataset.obs=pixels, and the other demonstrations have none"
        )
    return (config.path, {key: key for key in config.image_keys}) if config.image_keys else (None, {})
