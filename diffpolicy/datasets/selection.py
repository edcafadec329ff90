"""The choice of episodes for training and validation."""

from __future__ import annotations

import numpy as np

from diffpolicy.util.errors import require


def select_episodes(
    n_episodes: int, episodes: int | None = None, seed: int = 42, validation: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """Return a seeded choice of training and validation episodes, which never overlap.

    All come from one permutation of the seed: training episodes from its front, validation episodes from its back.
    So a smaller training set is part of a larger one, and the validation episodes are the same for every size of the
    training set that leaves room for them.

    Args:
        n_episodes: how many there are.
        episodes: how many to train on; None takes all but the validation ones. With a number, validation takes from
            the rest, hence fewer when the rest is small, and none when there is no rest.
        seed: of the permutation.
        validation: fraction of `n_episodes` held out, in [0, 1); at least one episode when above 0.

    Returns:
        train: (n,) int64, sorted.
        validation: (m,) int64, sorted; empty for `validation=0`.

    Raises:
        ValueError: numbers out of range, or nothing left to train on.
    """
    require(n_episodes >= 1, f"n_episodes={n_episodes}", "at least 1")
    require(0 <= validation < 1, f"validation={validation}", "a fraction in [0, 1), such as 0.05 for one in twenty")
    known = episodes is None or 1 <= episodes <= n_episodes
    require(known, f"training on {episodes} episodes", f"1 to {n_episodes}, which there are")
    held_out = max(1, round(validation * n_episodes)) if validation > 0 else 0
    if episodes is None:
        episodes = n_episodes - held_out
        says = f"holding out {held_out} of {n_episodes} episodes leaves none to train on"
        require(episodes >= 1, says, cure="take validation=0")
    held_out = min(held_out, n_episodes - episodes)
    order = np.random.default_rng(seed).permutation(n_episodes)
    return np.sort(order[:episodes]), np.sort(order[n_episodes - held_out :])
