"""A model with one network of the registry, and what reads its condition."""

from __future__ import annotations

from torch import Tensor, nn

from diffpolicy.policies.models.base import ChunkModel, ModelSpec
from diffpolicy.registry import build
from diffpolicy.util.condition import Condition


class NetworkModel(ChunkModel):
    """A model with one network of the registry.

    Networks take a condition's numbers by linear layers. What matters is often a relation of several, such as whether
    the hand is above the object; so a perceptron of one hidden layer can read them first, once for all calls.

    Args:
        spec: what it is built for. Its features are the perceptron's outputs and hidden units; 0 does without it.
        two_times: whether the network is called with two times.
    """

    def __init__(self, spec: ModelSpec, two_times: bool = False) -> None:
        super().__init__(spec)
        sizes = {"dim": spec.action_dim, "cond_dim": spec.features or spec.cond_dim, "horizon": spec.horizon}
        self.net = build("net", spec.net, **sizes, two_times=two_times)
        self.reader: nn.Sequential | None = None
        if spec.features:
            first, second = nn.Linear(spec.cond_dim, spec.features), nn.Linear(spec.features, spec.features)
            self.reader = nn.Sequential(first, nn.Mish(), second)

    def told(self, vector: Tensor) -> Condition:
        return Condition(vector if self.reader is None else self.reader(vector))

    def networks(self) -> list[nn.Module]:
        return [self.net]
