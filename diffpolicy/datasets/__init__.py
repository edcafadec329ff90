"""Recorded demonstrations: the replay buffer, its windows, normalisers, and the published data sets by name.

numpy, torch, zarr and pooch only: nothing here knows of networks, policies or environments.
"""

from diffpolicy.datasets.downloads import data_root, resolve
from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.datasets.pusht import load_pusht
from diffpolicy.datasets.replay_buffer import ReplayBuffer, select_episodes
from diffpolicy.datasets.windows import BatchSampler, WindowDataset, epoch_permutation

__all__ = [
    "BatchSampler",
    "Normalizer",
    "ReplayBuffer",
    "WindowDataset",
    "data_root",
    "epoch_permutation",
    "load_pusht",
    "resolve",
    "select_episodes",
]
