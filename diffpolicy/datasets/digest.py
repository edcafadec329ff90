"""A digest of training data, by which a resumed run knows that its data are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.frames import FrameSource
from diffpolicy.util.files import new_digest

SAMPLED_FRAMES = 16


def digest_of(
    recorded: ReplayBuffer, images: FrameSource | None = None, texts: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Return the SHA-256 of training data as recorded, before transforms.

    It covers the length of every episode, all vectors and actions as float32, and of images the pixels of
    `SAMPLED_FRAMES` frames spread over the episodes: reading all would take as long as training on them. It depends
    neither on the path nor on the container, the chunks or the dtype of the files.

    Args:
        recorded: the training episodes; `episode_numbers` are those of the recording.
        images: the recording's images, if there are any.
        texts: by key, the texts that are observed; which each episode has, it says itself.
    """
    digest = new_digest()
    digest.update(recorded.episode_lengths.astype("<i8").tobytes())
    for name in sorted(recorded.keys()):
        digest.update(f"{name} {recorded[name].shape}".encode())
        digest.update(np.ascontiguousarray(recorded[name], "<f4").data)
    for name, every in (texts or {}).items():
        said = [every[number] if number >= 0 else None for number in recorded.meta[name].astype(int)]
        digest.update(f"{name} {said}".encode())
    if images is not None:
        for name, values in sorted(images.read(sampled_frames(recorded, images)).items()):
            digest.update(f"{name} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).data)
    return str(digest.hexdigest())


def sampled_frames(recorded: ReplayBuffer, images: FrameSource) -> np.ndarray:
    """Return the numbers of some frames of the recording, spread over the given episodes, increasing."""
    places = np.unique(np.linspace(0, recorded.n_steps - 1, SAMPLED_FRAMES).astype(np.int64))
    episode = np.searchsorted(recorded.episode_ends, places, side="right")
    starts = recorded.episode_ends - recorded.episode_lengths
    ends = images.episode_ends
    starts_on_disk = (ends - np.diff(ends, prepend=0))[recorded.episode_numbers]
    return np.sort(starts_on_disk[episode] + places - starts[episode])
