"""Time-to-success weighting: actions after which a demonstration was soon done count more.

People who demonstrate a task reach the goal, but not always by the shortest path: they hesitate, push too far and
start again. Where all demonstrations stop once the task is done, or nearly, how long one still took from a frame on,
beside how long others took from as far away, says how good its actions were.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from diffpolicy.util.errors import require

BINS = 20
_BIN_FRAMES = 50  # at least so many are compared with each other
_LIGHTEST, _HEAVIEST = 0.1, 5.0  # bounds of a weight, so that no demonstration is lost and none decides alone


def time_to_success_weights(obs: Tensor, lengths: np.ndarray, temperature: float) -> Tensor:
    """Return exp(A/temperature) of every frame, scaled to a mean of 1, as in advantage-weighted regression.

    The return of a frame is minus the number of frames that its episode still has, and it is compared with those of
    the frames that are about as far from done: their mean, in units of their standard deviation (Peng et al. 2019).
    Far from done is far from the episodes' last frames, every number in units of its
    spread there, so that those that are the same in the end (where the block lies) decide, and those that are not
    (where the robot is) hardly count. Frames are compared in up to `BINS` bins of that distance, of equal numbers of
    frames.

    Args:
        obs: (N, D), the frames' observations, episode after episode.
        lengths: (E,) frames of each episode.
        temperature: small ones trust the fast demonstrations more, large ones weight all alike.

    Returns:
        (N,) float32.

    Raises:
        ValueError: a temperature that is not positive, or too few episodes and frames to compare.
    """
    cure = "take dataset.time_to_success=null for equal weights"
    require(temperature > 0, f"dataset.time_to_success={temperature}", "a temperature above 0", cure)
    enough = len(lengths) >= 2 and len(obs) >= _BIN_FRAMES
    says = f"time-to-success weights of {len(obs)} frames in {len(lengths)} episodes"
    require(enough, says, f"{_BIN_FRAMES} frames of several episodes", cure)
    left = np.concatenate([np.arange(n - 1, -1, -1) for n in lengths])
    bins = np.array_split(np.argsort(_from_done(obs.cpu().double().numpy(), lengths), kind="stable"), _bins(len(obs)))
    advantages = np.empty(len(left))
    for frames in bins:
        advantages[frames] = (left[frames].mean() - left[frames]) / max(left[frames].std(), 1.0)
    weights = np.exp(advantages / temperature).clip(_LIGHTEST, _HEAVIEST)
    return torch.from_numpy((weights / weights.mean()).astype(np.float32))


def unweighted(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a batch of windows that were drawn by their weights, so that its losses count alike."""
    return {name: values for name, values in batch.items() if name != "weight"}


def _bins(frames: int) -> int:
    return min(BINS, frames // _BIN_FRAMES)


def _from_done(obs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(N,) root mean square distance to the last frames' mean, in their standard deviations."""
    last = obs[np.cumsum(lengths) - 1]
    moves = np.ptp(obs, axis=0) > 0
    spread = np.maximum(last.std(0), 1e-3 * np.ptp(obs, axis=0))[moves]
    return np.sqrt((((obs - last.mean(0))[:, moves] / spread) ** 2).mean(1))
