"""Weights of the training windows by their pace: actions after which a demonstration was soon done count more.

People who demonstrate a task reach the goal, but not always by the shortest way: they hesitate, push too far and
begin again. Where all demonstrations end with the task done, how long one still took from a frame on says how good
its actions were there, beside how long others took from where they were in about the same state.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

NEIGHBOURS = 64
_CHANCE = 5.0  # frames: times that differ by no more than this say nothing of the actions
_LIGHTEST, _HEAVIEST = 0.1, 5.0  # bounds of a weight, so that no demonstration is lost and none decides alone


def pace_weights(obs: Tensor, lengths: np.ndarray, temperature: float, neighbours: int = NEIGHBOURS) -> Tensor:
    """exp(A/(temperature·s)) of every frame, with a mean of 1: advantage-weighted regression (Peng et al. 2019).

    The return of a frame is minus the number of frames its episode still has. The advantage A is the mean time left
    of the `neighbours` frames of other episodes that are nearest in observation (Euclidean, every number scaled to
    [-1, 1]), less its own; s is the standard deviation of the neighbours' times.

    Args:
        obs: (N, D), the frames' observations, episode after episode.
        lengths: (E,) frames of each episode.
        temperature: small ones trust the fast demonstrations more, large ones none.
        neighbours: how many frames are asked.

    Returns:
        (N,) float32.

    Raises:
        ValueError: a temperature that is not positive, or fewer frames in other episodes than neighbours.
    """
    if not temperature > 0:
        raise ValueError(f"pace is a temperature above 0, or null for equal weights; given {temperature}")
    if len(obs) - int(lengths.max()) < neighbours:
        raise ValueError(
            f"pace compares a frame with {neighbours} of other episodes, and there are {len(obs)} frames in "
            f"{len(lengths)} episodes; record more, or take dataset.pace=null"
        )
    low, high = obs.amin(0), obs.amax(0)
    scaled = (2 * obs - low - high) / (high - low).clamp_min(torch.finfo(obs.dtype).tiny)
    ends = np.cumsum(lengths)
    left = torch.cat([torch.arange(int(n) - 1, -1, -1, dtype=torch.float32) for n in lengths]).to(obs.device)
    squares = scaled.square().sum(1)
    advantages = torch.empty_like(left)
    for begin, end in zip(ends - lengths, ends, strict=True):
        distances = squares - 2 * scaled[begin:end] @ scaled.T  # up to what is the same for all
        distances[:, begin:end] = torch.inf
        others = left[distances.topk(neighbours, largest=False).indices]
        spread = others.std(1).clamp_min(_CHANCE)
        advantages[begin:end] = (others.mean(1) - left[begin:end]) / spread
    weights = (advantages / temperature).exp().clamp(_LIGHTEST, _HEAVIEST)
    return weights / weights.mean()
