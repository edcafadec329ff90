"""Recorded demonstrations: replay buffers, their windows, transforms, and the catalog of data sets.

Nothing here knows of networks, policies or environments.
"""

from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.downloads import data_root
from diffpolicy.datasets.load import Windows, load_windows, open_batches
from diffpolicy.datasets.load_episodes import load_demonstrations, load_training_episodes
from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.datasets.samplers import BatchSampler
from diffpolicy.datasets.selection import select_episodes
from diffpolicy.datasets.spec import Field, ObservationSpec
from diffpolicy.datasets.windows import WindowDataset
from diffpolicy.datasets.writer import EpisodeWriter

__all__ = [
    "BatchSampler",
    "EpisodeWriter",
    "Field",
    "Normalizer",
    "ObservationSpec",
    "ReplayBuffer",
    "WindowDataset",
    "Windows",
    "data_root",
    "load_demonstrations",
    "load_training_episodes",
    "load_windows",
    "open_batches",
    "select_episodes",
]
