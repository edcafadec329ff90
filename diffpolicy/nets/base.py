"""What other packages may ask of a module: to train it, to call it as a network, to prepare it for inference.

A capability is declared by inheriting its class here, never found out by looking for a method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import explain


class Model(nn.Module, ABC):
    """A module that the training loop can train."""

    @abstractmethod
    def loss(self, batch: Mapping[str, Any], generator: Any) -> Tensor:
        """Return the loss of every sample of a batch, (B,).

        Args:
            batch: tensors, or structures of tensors, whose first axis is the batch.
            generator: the source of everything random (`generative.shapes.Generators`), so that the same loss can be
                computed again.
        """

    @abstractmethod
    def networks(self) -> list[nn.Module]:
        """Return the modules that `loss` and sampling call, each of which can be compiled."""


class Network(nn.Module, ABC):
    """A network of a generative model: `net(x, t, cond, r=None)`. It knows nothing of paths, policies or tasks.

    Networks of trajectories are constructed from `(dim, cond_dim, horizon, two_times=False)` and their own options,
    networks of images from `(channels, labels)` and theirs.
    """

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, cond: Any = None, r: Tensor | None = None) -> Tensor:
        """Return the output for x at time t, in the shape of x.

        Args:
            x: (B, *shape), the noised samples.
            t: (B,), or (B, T) where a network supports a time per step; 0 is noise, 1 is data.
            cond: the condition: a `Condition`, integer labels (B,) for networks of images, or None.
            r: (B,), the later time of methods with two times; None stands for t.
        """

    @abstractmethod
    def null(self, cond: Any) -> Any:
        """Return the condition that stands for "none", in the form and shape of `cond`."""


class Fusable(ABC):
    """A module that can run some of its layers as compiled passes, also in training."""

    @abstractmethod
    def fuse(self) -> None:
        """Use the compiled passes from now on: the same numbers up to rounding."""


class Freezable(ABC):
    """A module that can be prepared for inference."""

    @abstractmethod
    def freeze(self, shape: tuple[int, ...] | None = None) -> None:
        """Prepare for inference: the same numbers up to rounding, in fewer operations and without gradients.

        The preparation is of the present weights on their present device: repeat it after training or moving the
        module. Loading weights undoes it.

        Args:
            shape: the shape of x, (B, T, D), for which calls are also compiled; None compiles nothing.
        """

    def graphs(self, x: Tensor) -> dict[str, Any] | None:
        """Return where to keep CUDA graphs of what calls the module with tensors like x, for as long as it is frozen.

        None if a graph cannot hold such calls.
        """
        return None


def check_trajectory(x: Tensor, t: Tensor, r: Tensor | None, dim: int) -> None:
    """Check x (B, T, dim) and its times t and r, (B,) each.

    Raises:
        ValueError: other shapes.
    """
    if x.ndim != 3 or x.shape[2] != dim:
        raise ValueError(explain(f"x has shape {tuple(x.shape)}", f"(B, T, {dim})"))
    for name, time in (("t", t), ("r", r)):
        if time is not None and time.shape != x.shape[:1]:
            given = f"{name} has shape {tuple(time.shape)}"
            raise ValueError(explain(given, f"({x.shape[0]},): this network takes one time per sample"))


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
        raise ValueError(explain("cond has tokens", "a vector alone", "take a network that attends to tokens"))
    return None if cond is None else cond.vector


def null_vector(learned: Tensor | None, cond: Condition) -> Condition:
    """Return `cond` with the learned vector (C,) that stands for "none" in place of every sample's.

    Raises:
        ValueError: the network was built without a condition.
    """
    if learned is None:
        raise ValueError(explain("cond_dim=0: this network has no condition to drop", cure="set cond_dim"))
    return cond._replace(vector=learned.expand_as(cond.vector))
