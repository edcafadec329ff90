"""What other packages may ask of a module: to train it, to call it as a network, to prepare it for inference.

A capability is declared by inheriting its class here, never found out by looking for a method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn


class Model(nn.Module, ABC):
    """A module that the training loop can train."""

    @abstractmethod
    def loss(self, batch: Mapping[str, Any], generator: Any) -> Tensor:
        """Return the loss of every sample of a batch, (B,).

        Args:
            batch: tensors, or structures of tensors, whose first axis is the batch.
            generator: of all that is random (`generative.shapes.Generators`); the same one gives the same loss.
        """

    @abstractmethod
    def networks(self) -> list[nn.Module]:
        """Return the modules that `loss` and sampling call, each of which can be compiled."""


class Network(nn.Module, ABC):
    """A network of a generative model: `net(x, t, cond, r=None)`. It knows nothing of paths, policies or tasks.

    Networks of trajectories are constructed from `(dim, cond_dim, horizon, two_times=False)` and their own options,
    networks of images from `(channels, labels, two_times=False)` and theirs.
    """

    per_step: ClassVar[bool] = False  # whether every step of a trajectory may have a time of its own

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, cond: Any = None, r: Tensor | None = None) -> Tensor:
        """Return the output for x at time t, in the shape of x.

        Args:
            x: (B, *shape), the noised samples.
            t: (B,), or (B, T) of `per_step` networks; 0 is noise, 1 is data.
            cond: the condition: a `Condition`, integer labels (B,) for networks of images, or None.
            r: (B,), the later time of methods with two times; None stands for t.
        """

    @abstractmethod
    def null(self, cond: Any) -> Any:
        """Return the condition that stands for "none", in the form and shape of `cond`."""


class Fusable(ABC):
    """A module that can run some of its layers as compiled passes, also in training."""

    @property
    def has_blocks(self) -> bool:
        """Whether there are such layers; a wrapper has those of the network inside."""
        return True

    @abstractmethod
    def fuse(self) -> None:
        """Use the compiled passes from now on: the same numbers up to rounding."""


class Freezable(ABC):
    """A module that can be prepared for inference."""

    @property
    def compiles(self) -> bool:
        """Whether `freeze` can compile calls."""
        return True

    @abstractmethod
    def freeze(self, shape: tuple[int, ...] | None = None, per_step: bool = False) -> None:
        """Prepare for inference: the same numbers up to rounding, in fewer operations and without gradients.

        Repeat it after training or moving the module, whose present weights it is made of. Loading weights undoes it.

        Args:
            shape: the shape of x, (B, T, D), for which calls are also compiled; None compiles nothing.
            per_step: whether calls with a time per step are compiled too.
        """

    def graphs(self, x: Tensor) -> dict[str, Any] | None:
        """Return where to keep CUDA graphs of what calls the module with tensors like x, for as long as it is frozen.

        None if a graph cannot hold such calls.
        """
        return None
