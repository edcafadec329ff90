"""What networks check of what they are called with, and the condition that stands for none."""

from __future__ import annotations

import torch
from torch import Tensor

from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import explain


def check_trajectory(x: Tensor, t: Tensor, r: Tensor | None, dim: int) -> None:
    """Check x (B, T, dim) and its times t and r, each (B,), or (B, T) where every step has a time of its own.

    Raises:
        ValueError: other shapes.
    """
    if x.ndim != 3 or x.shape[2] != dim:
        raise ValueError(explain(f"x has shape {tuple(x.shape)}", f"(B, T, {dim})"))
    for name, time in (("t", t), ("r", r)):
        if time is not None and time.shape not in (x.shape[:1], x.shape[:2]):
            given = f"{name} has shape {tuple(time.shape)}"
            raise ValueError(explain(given, f"one time per sample ({x.shape[0]},), or per step {tuple(x.shape[:2])}"))
    if r is not None and r.shape != t.shape:
        raise ValueError(explain(f"r has shape {tuple(r.shape)}", f"that of t, {tuple(t.shape)}"))


def check_images(x: Tensor, t: Tensor, cond: Tensor | None, r: Tensor | None, channels: int, multiple: int) -> None:
    """Check images x (B, channels, H, W) whose sides are multiples, their times t and r and their labels, (B,) each.

    Raises:
        ValueError: other shapes, or labels that are not int64.
    """
    if x.ndim != 4 or x.shape[1] != channels or any(side % multiple for side in x.shape[2:]):
        expected = f"(B, {channels}, H, W) with H and W multiples of {multiple}"
        raise ValueError(explain(f"x has shape {tuple(x.shape)}", expected))
    given = tuple(t.shape), None if cond is None else tuple(cond.shape), (len(x),) if r is None else tuple(r.shape)
    if given != ((len(x),),) * 3 or cond.dtype != torch.int64:
        expected = f"({len(x)},) of each: one time and one int64 label per image"
        raise ValueError(explain(f"t, cond and r have shapes {given}", expected))


def joined(features: Tensor, vector: Tensor | None) -> Tensor:
    """Return features of the time (B, F) or (B, T, F) with the condition's vector (B, C) behind them."""
    if vector is None:
        return features
    vector = vector.to(features.dtype)
    if features.ndim == 3:
        vector = vector[:, None].expand(-1, features.shape[1], -1)
    return torch.cat([features, vector], dim=-1)


def check_vector(cond: Condition | None, batch: int, size: int) -> Tensor | None:
    """Return the vector of a condition, (batch, size), or None where a network takes no condition (size 0).

    Raises:
        TypeError: `cond` is neither a `Condition` nor None.
        ValueError: a vector of another shape, tokens, a condition that is missing, or one where none is taken.
    """
    if cond is not None and not isinstance(cond, Condition):
        raise TypeError(explain(f"cond is a {type(cond).__name__}", "a Condition", "write Condition(vector)"))
    given = None if cond is None else tuple(cond.vector.shape)
    expected = (batch, size) if size else None
    if given != expected:
        raise ValueError(explain(f"cond.vector has shape {given}", str(expected)))
    if cond is not None and cond.tokens is not None:
        raise ValueError(explain("cond has tokens, which no network reads yet", "a vector alone", "give numbers"))
    return None if cond is None else cond.vector


def null_vector(learned: Tensor | None, cond: Condition) -> Condition:
    """Return `cond` with the learned vector (C,) that stands for "none" in place of every sample's.

    Raises:
        ValueError: the network was built without a condition.
    """
    if learned is None:
        raise ValueError(explain("cond_dim=0: this network has no condition to drop", cure="set cond_dim"))
    return cond._replace(vector=learned.expand_as(cond.vector))
