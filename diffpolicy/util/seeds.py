"""Random numbers as a function of a key, so that they depend on neither batching nor the order of calls.

A key is made of integers (a run's seed, a step, a row) and of the name of a stream, which keeps draws for different
purposes apart:

    generator(seed, "training noise", step)
"""

from __future__ import annotations

import numpy as np
import torch

# The integer that each name stands for. Never change one: every result of earlier releases depends on it.
STREAMS = {
    "training noise": 1,
    "validation noise": 2,
    "images": 3,
    "feature order": 5,
    "bootstrap replicates": 6,
    "dequantization": 7,
    "probe signs": 8,
    "variational bound": 9,
    "estimator": 10,
    "take over": 11,
    "candidates": 12,
    "explore": 13,
    "delay": 14,
    "action noise": 15,
}


def _entropy(key: tuple[int | str, ...]) -> list[int]:
    return [STREAMS[part] if isinstance(part, str) else int(part) for part in key]


def seed_of(*key: int | str) -> int:
    """Return the 64-bit seed of a key."""
    return int(np.random.SeedSequence(_entropy(key)).generate_state(1, np.uint64)[0])


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator whose numbers are a function of `key` and of the kind of device alone."""
    return torch.Generator(device).manual_seed(seed_of(*key))
