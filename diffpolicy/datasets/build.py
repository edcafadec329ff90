"""Training windows by name, from a config."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.datasets.pusht import load_expert_pusht, load_pusht
from diffpolicy.datasets.replay_buffer import ReplayBuffer, select_episodes
from diffpolicy.datasets.shipped import SHIPPED, open_shipped
from diffpolicy.datasets.windows import WindowDataset

_SHIPPED = tuple(name for name in SHIPPED if name != "pusht")


@dataclass
class DatasetConfig:
    """Which demonstrations.

    Args:
        name: "pusht", the human Push-T demonstrations; "expert_pusht", the expert's, "pushblocks" or "detour", which
            ship with the package; or "zarr", one's own replay buffer at `path`.
        obs: of Push-T: "keypoints" (the human ones only), "corners" or "state".
        path, obs_keys, action_key: where one's own is, and which arrays make up observation and action.
        episodes: how many training episodes, drawn with `seed`; None takes all.
        validation: share of the episodes held out for the validation loss.
        mirror: of Push-T: adds the mirror image of every training episode, see `pusht.mirror`.
        normalize: "limits" or "gaussian" for "obs" and "action"; limits unless named.
    """

    name: str = "pusht"
    obs: str = "keypoints"
    path: str | None = None
    obs_keys: list[str] = field(default_factory=lambda: ["obs"])
    action_key: str = "action"
    episodes: int | None = None
    seed: int = 42
    validation: float = 0.05
    mirror: bool = False
    normalize: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Windows:
    """Training and validation windows, and the normaliser fitted on the training episodes."""

    train: WindowDataset
    validation: WindowDataset | None
    normalizer: Normalizer


def load_buffer(config: DatasetConfig, data_root: str | None = None, mirrored: bool = False) -> ReplayBuffer:
    """The demonstrations a config names, or their mirror images.

    Raises:
        ValueError: an unknown name, no path for one's own, or mirror images of other than Push-T.
        FileNotFoundError and others: as `load_pusht` and `ReplayBuffer.open`.
    """
    if config.name == "pusht":
        if config.obs == "pixels":
            raise ValueError("training takes observations in numbers: dataset.obs is keypoints, corners or state")
        return load_pusht(config.obs, data_root, mirrored)
    if config.name == "expert_pusht":
        return load_expert_pusht(config.obs, mirrored)
    if config.name not in ("zarr", *_SHIPPED):
        known = ", ".join(map(repr, ("pusht", "expert_pusht", *_SHIPPED)))
        raise ValueError(f"unknown dataset {config.name!r}; choose {known}, or 'zarr' with dataset.path for your own")
    if config.name == "zarr" and config.path is None:
        raise ValueError("dataset.name=zarr reads your own demonstrations: say where they are with dataset.path")
    if config.mirror:
        raise ValueError("only Push-T's mirror images are known: dataset.mirror=false, as task=own has it")
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

    def windows(part: ReplayBuffer) -> WindowDataset:
        return WindowDataset(part, config.obs_keys, config.action_key, horizon, obs_horizon, action_horizon, device)

    training = buffer.subset(chosen)
    if config.mirror:
        training = training.joined(load_buffer(config, data_root, mirrored=True).subset(chosen))
    train = windows(training)
    frames = {"obs": train.all_obs(), "action": train.all_actions()}
    return Windows(
        train, windows(buffer.subset(held_out)) if len(held_out) else None, Normalizer.fit(frames, config.normalize)
    )
