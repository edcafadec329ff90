"""What an image is to show, as networks of images read it: a label, or a condition that a text became."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffpolicy.nets.inputs import check_condition
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import explain, require

Layer = nn.Embedding | nn.Linear


def subject_layer(labels: int, cond_dim: int, token_dim: int, features: int) -> Layer:
    """Return what makes features (B, features) of labels, or of the vector of a condition.

    Args:
        labels: number of labels, of which one more stands for "none"; 0 where conditions are taken.
        cond_dim: numbers of the condition's vector; 0 where labels are taken.
        token_dim: numbers per token of the condition; 0 for none.
        features: their number.

    Raises:
        ValueError: neither labels nor a condition, or both.
    """
    given = f"labels={labels}, cond_dim={cond_dim}, token_dim={token_dim}"
    fits = (labels > 0) != (cond_dim > 0) and min(labels, cond_dim, token_dim) >= 0 and (cond_dim or not token_dim)
    require(fits, given, "labels, or a vector and perhaps tokens")
    return nn.Embedding(labels + 1, features) if labels else nn.Linear(cond_dim, features)


def read_subject(
    layer: Layer, cond: Tensor | Condition, batch: int, token_dim: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the features (batch, F) of labels or of a condition, and its tokens and their mask.

    Args:
        layer: of `subject_layer`.
        cond: (batch,) int64, or a condition.
        batch: number of images.
        token_dim: numbers per token; 0 for none.

    Raises:
        ValueError: another condition, or one of another shape.
    """
    if isinstance(layer, nn.Linear):
        vector, tokens, mask = check_condition(cond, batch, layer.in_features, token_dim)
        return layer(vector.to(layer.weight.dtype)), tokens, mask
    if not isinstance(cond, Tensor) or cond.shape != (batch,) or cond.dtype != torch.int64:
        given = (
            f"{cond.dtype} of shape {tuple(cond.shape)}" if isinstance(cond, Tensor) else f"a {type(cond).__name__}"
        )
        raise ValueError(explain(f"cond is {given}", f"({batch},): one int64 label per image"))
    return layer(cond), None, None


def no_subject(layer: Layer, cond: Tensor) -> Tensor:
    """Return the labels that stand for "none", (B,).

    Raises:
        ValueError: the network takes conditions; whoever encodes them knows what says nothing.
    """
    given = "a network of images that takes conditions, which has no label for none"
    require(isinstance(layer, nn.Embedding), given, "one of labels", "wrap it in a ToldNetwork")
    return torch.full_like(cond, layer.num_embeddings - 1)
