"""From a run's config to episodes, as observed: those it trains on, or all there are."""

from __future__ import annotations

import functools

import numpy as np

from diffpolicy.config import RunConfig
from diffpolicy.datasets import catalog
from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.episode_transforms import transformed, transforms_of
from diffpolicy.datasets.selection import choose_episodes
from diffpolicy.datasets.window_index import frames_needed


def horizons_of(config: RunConfig) -> tuple[int, int, int]:
    """Return T_p, T_o and T_a of a run."""
    return config.policy.horizon, config.policy.obs_horizon, config.policy.action_horizon


def choose(recorded: ReplayBuffer, config: RunConfig) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the training and the validation episodes of a run, and how many were too short for one window."""
    data = config.dataset
    choice = (data.episodes, data.seed, data.validation, frames_needed(*horizons_of(config)), data.short)
    return choose_episodes(recorded.episode_lengths, *choice)


def load_training_episodes(config: RunConfig) -> ReplayBuffer:
    """Return the vectors and actions of the episodes that a config trains on, as observed, augmentations included.

    Raises:
        ValueError: names or settings that do not fit the data.
        OSError: missing data that cannot be downloaded.
    """
    source = catalog.open_demonstrations(config)
    recorded = source.recorded()
    chosen, _, _ = choose(recorded, config)
    copies = [source.observed(copy).subset(chosen) for copy in transformed(recorded, transforms_of(source, config))]
    names = [*config.observation.vectors, config.dataset.action_key]
    return functools.reduce(ReplayBuffer.joined, [copy.with_arrays({k: copy[k] for k in names}) for copy in copies])


def load_demonstrations(config: RunConfig) -> ReplayBuffer:
    """Return the vectors and actions of all demonstrations that a config names, as observed, without augmentations.

    Raises:
        ValueError: names or settings that do not fit the data.
        OSError: missing data that cannot be downloaded.
    """
    source = catalog.open_demonstrations(config)
    changes = [transform for transform in transforms_of(source, config) if not transform.adds]
    (relabeled,) = transformed(source.recorded(), changes)
    return source.observed(relabeled)
