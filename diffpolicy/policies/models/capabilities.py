"""What some models can do beside being trained and sampled. A model declares it by inheriting the class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn

from diffpolicy.generative.paths import Path


class Remembers(ABC):
    """A model that is shown the training windows once, before the training loop."""

    @abstractmethod
    def remember(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Keep the windows of all normalized batches: "obs" (B, T_o, D) and "action" (B, T_p, A).

        Raises:
            ValueError: another number of windows than the model was built for.
        """


class Corrects(ABC):
    """A model that changes each planned action when it is carried out."""

    @abstractmethod
    def corrected(self, obs: Tensor, planned: Tensor, place: Tensor) -> Tensor:
        """Return the actions (B, A) to be carried out, normalized.

        Args:
            obs: (B, D), the newest observations, normalized.
            planned: (B, A), what chunks planned for now, normalized.
            place: (B,) int64, of each action in its chunk, from 0 to T_p - 1.
        """


class Exportable(ABC):
    """A model whose chunks are made by a flow map on a fixed grid of times, with one network: see `export_onnx`.

    Attributes:
        net: the network.
        reader: what reads the condition's numbers before it; None where nothing does.
        times: the grid of the sampler, from noise to data.
        path: the path of the times.
        prediction: what the network outputs.
        clip: bound of the data estimate, or None.
    """

    net: nn.Module
    reader: nn.Module | None
    times: Tensor
    path: Path
    prediction: str
    clip: float | None

    @abstractmethod
    def check_exportable(self, what: str) -> None:
        """Raise ValueError unless what="chunk" (with the present sampler) or what="network" can be exported."""

    @abstractmethod
    def flow_map(self, net: nn.Module) -> Callable[..., Tensor]:
        """Return the flow map (x, t, s, cond) -> x_s of one step of the sampler, computed with `net`."""
