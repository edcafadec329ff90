"""The network of a generator of images, films or sets of points, which labels or texts tell what to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from torch import Tensor, nn

from diffpolicy.nets.around import FilmNetwork
from diffpolicy.nets.text import ToldNetwork, vocabulary
from diffpolicy.policies.texts import build_text
from diffpolicy.registry import build
from diffpolicy.util.errors import require

_FILM, _IMAGE, _POINTS = 4, 3, 2  # axes of what is generated


@final
class NetworkMaker:
    """Makes networks for data of a shape, each with a text encoder of its own where there are texts.

    Args:
        shape: (C, H, W) of an image, (T, C, H, W) of a film, whose frames are the channels of an image for the
            network, or (N, D) of a set of points, for networks of trajectories.
        labels: number of labels.
        net: {"name": …, options}, see the registry.
        text: the encoder of texts and `attend`, see the registry.
        texts: what each label says; empty where labels are numbers.
        known: identity of a pretrained text encoder's weights; None accepts any.

    Raises:
        ValueError: a shape of nothing known, or points without texts.
    """

    def __init__(
        self,
        shape: Sequence[int],
        labels: int,
        net: Mapping[str, Any],
        text: Mapping[str, Any],
        texts: Sequence[str],
        known: str | None,
    ) -> None:
        self.shape, self.labels, self.net, self.text = tuple(shape), labels, net, text
        self.texts, self.known = list(texts), known
        fits = len(self.shape) in (_IMAGE, _FILM, _POINTS)
        require(fits, f"data of shape {self.shape}", "images (C, H, W), films (T, C, H, W) or points (N, D)")
        told = bool(texts) or len(self.shape) != _POINTS
        require(told, f"points {self.shape} of numbered labels", "texts, of which networks of points are told")
        self.encoder = build_text(text, vocabulary(self.texts), known) if texts else None

    def __call__(self, factor: int = 1, two_times: bool = False) -> nn.Module:
        """Return a network.

        Args:
            factor: numbers that it has in place of each one; above 1 of images alone.
            two_times: whether it is called with two times.

        Raises:
            ValueError: a net of something else, or options that do not fit.
        """
        given = f"a method with {factor} numbers in place of one, for data of shape {self.shape}"
        require(factor == 1 or len(self.shape) == _IMAGE, given, "images", "take method=flow")
        told, attends = self.encoder, bool(self.text.get("attend"))
        if len(self.shape) == _POINTS:
            sizes = {"dim": self.shape[1], "horizon": self.shape[0]}
        else:
            frames = self.shape[0] if len(self.shape) == _FILM else 1
            sizes = {"channels": frames * self.shape[-3] * factor}
        if told is None:
            sizes["labels"] = self.labels
        else:
            sizes |= {"cond_dim": told.features, **({"token_dim": told.width} if attends else {})}
        net = build("net", self.net, **sizes, **({"two_times": True} if two_times else {}))
        net = FilmNetwork(net) if len(self.shape) == _FILM else net
        return net if told is None else ToldNetwork(net, told, attends)

    def ids(self) -> Tensor:
        """Return the ids of the texts, (labels, L)."""
        assert self.encoder is not None
        return self.encoder.ids(self.texts)
