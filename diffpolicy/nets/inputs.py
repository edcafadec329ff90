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


def check_images(x: Tensor, t: Tensor, r: Tensor | None, channels: int, multiple: int) -> None:
    """Check images x (B, channels, H, W) whose sides are multiples, and their times t and r, (B,) each.

    Raises:
        ValueError: other shapes.
    """
    if x.ndim != 4 or x.shape[1] != channels or any(side % multiple for side in x.shape[2:]):
        expected = f"(B, {channels}, H, W) with H and W multiples of {multiple}"
        raise ValueError(explain(f"x has shape {tuple(x.shape)}", expected))
    given = tuple(t.shape), (len(x),) if r is None else tuple(r.shape)
    if given != ((len(x),),) * 2:
        raise ValueError(explain(f"t and r have shapes {given}", f"({len(x)},): one time per image"))


def joined(features: Tensor, vector: Tensor | None) -> Tensor:
    """Return features of the time (B, F) or (B, T, F) with the condition's vector (B, C) behind them."""
    if vector is None:
        return features
    vector = vector.to(features.dtype)
    if features.ndim == 3:
        vector = vector[:, None].expand(-1, features.shape[1], -1)
    return torch.cat([features, vector], dim=-1)


def check_condition(
    cond: Condition | None, batch: int, size: int, token_dim: int = 0
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the vector (batch, size) of a condition, its tokens (batch, N, token_dim) and their mask.

    Each is None where a network takes no such thing (size 0, token_dim 0); a mask is None where all tokens count.

    Raises:
        TypeError: `cond` is neither a `Condition` nor None.
        ValueError: a vector or tokens of another shape, what is missing, or what is not taken.
    """
    if cond is not None and not isinstance(cond, Condition):
        raise TypeError(explain(f"cond is a {type(cond).__name__}", "a Condition", "write Condition(vector)"))
    vector, tokens, mask = (None, None, None) if cond is None else cond
    given = None if vector is None else tuple(vector.shape)
    expected = (batch, size) if size else None
    if given != expected:
        raise ValueError(explain(f"cond.vector has shape {given}", str(expected)))
    if not token_dim:
        if tokens is not None:
            raise ValueError(explain("cond has tokens, and the network was made without", "a vector alone"))
        return vector, None, None
    if tokens is None or tokens.ndim != 3 or (len(tokens), tokens.shape[2]) != (batch, token_dim):
        given = None if tokens is None else tuple(tokens.shape)
        raise ValueError(explain(f"cond.tokens has shape {given}", f"({batch}, N, {token_dim})"))
    if mask is not None and mask.shape != tokens.shape[:2]:
        raise ValueError(explain(f"cond.mask has shape {tuple(mask.shape)}", f"{tuple(tokens.shape[:2])}"))
    return vector, tokens, mask


def null_vector(learned: Tensor | None, cond: Condition) -> Condition:
    """Return `cond` with the learned vector (C,) that stands for "none" in place of every sample's.

    Raises:
        ValueError: the network was built without a condition, or there are tokens, which would say what was dropped.
    """
    if learned is None:
        raise ValueError(explain("cond_dim=0: this network has no condition to drop", cure="set cond_dim"))
    if cond.tokens is not None:
        raise ValueError(explain("a condition with tokens", "a vector to drop", "drop texts by condition_dropout"))
    return cond._replace(vector=learned.expand_as(cond.vector))
