"""Reversible changes of what is recorded, observed and done.

Some change the training data alone (`EpisodeTransform`: relabeling, augmentation). Others make up the numbers that a
network sees, and are applied and undone when acting, too (`ActingTransform`: first the `Representations`, then the
`Normalizer`). Each class says by `acts` which of the two it is. `dataset.transforms` names transforms of the first
kind, in the order in which they are applied; another package adds its own by an entry point "diffpolicy.transform".
`dataset.representations` declares by array what the second kind makes of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

from torch import Tensor

from diffpolicy.datasets.buffer import ReplayBuffer

Batch = Mapping[str, Tensor]
"""Windows or observations by name: "obs" (B, T_o, D), "action" (B, T_p, A), and cameras (B, T_o, H, W, C)."""


class Transform(ABC):
    """A reversible change."""

    acts: ClassVar[bool]
    """Whether a policy applies it to its observations and undoes it on its actions. Else it is for training data."""


class ActingTransform(Transform):
    """A change of observations and actions which training and acting share.

    What it does follows from the run's config, or was fitted (`FittedTransform`).
    """

    acts = True

    @abstractmethod
    def apply(self, batch: Batch) -> dict[str, Tensor]:
        """Return a batch for the network; "action" may be missing, as it is when acting."""

    @abstractmethod
    def undo(self, batch: Batch) -> dict[str, Tensor]:
        """Return what `apply` was given: the actions of the network in the units of the data."""


class FittedTransform(ActingTransform):
    """A change that is fitted on training episodes, and saved with the policy as plain tensors."""

    @abstractmethod
    def to_tensors(self) -> dict[str, Tensor]:
        """Return what was fitted, by names fit for a safetensors file."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the transform whose `to_tensors` these are."""


class EpisodeTransform(Transform):
    """A change of recorded episodes, made before they are observed and cut into windows.

    It changes the arrays of a recording as its source names them (`DemonstrationSource.recorded`), whatever a policy
    observes of them.
    """

    acts = False

    general: ClassVar[bool] = True
    """Whether it suits the recordings of any source. Else sources name it in `DemonstrationSource.transforms`."""

    adds: ClassVar[bool] = False
    """Whether its result stands beside the original (augmentation), not in its place (relabeling)."""

    keeps_images: ClassVar[bool] = False
    """Whether images of the frames stay right when it changes the rest."""

    reads: ClassVar[tuple[str, ...]] = ()
    """Arrays that it needs, beside those that are observed."""

    def fit(self, buffer: ReplayBuffer) -> None:
        """Measure the episodes that `apply` and `undo` are about to change."""

    @abstractmethod
    def apply(self, buffer: ReplayBuffer) -> ReplayBuffer:
        """Return the changed episodes, with the same arrays and lengths.

        Raises:
            ValueError: arrays that it cannot do without are missing, or of other shapes.
        """

    @abstractmethod
    def undo(self, buffer: ReplayBuffer) -> ReplayBuffer:
        """Return what `apply` was given, up to rounding."""


class StreamedAugmentation(EpisodeTransform):
    """An augmentation that can also change windows whose images are read while training.

    Such data are not doubled on disk: half of the windows of every batch, drawn at random, are changed instead.
    """

    adds = True

    @abstractmethod
    def change(self, batch: Batch, chosen: Tensor) -> dict[str, Tensor]:
        """Return a batch with the `chosen` windows, (B,) bool, changed."""
