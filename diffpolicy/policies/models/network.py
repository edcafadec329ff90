"""A model with one network of the registry, and what reads its condition."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from diffpolicy.generative.predictions import FlowMap
from diffpolicy.generative.sampling import sample
from diffpolicy.nets.base import Freezable
from diffpolicy.nets.captured import Captured
from diffpolicy.policies.models.base import ChunkModel, ModelSpec, Sample
from diffpolicy.registry import build
from diffpolicy.util.condition import Condition


class NetworkModel(ChunkModel):
    """A model with one network of the registry.

    Networks take a condition's numbers by linear layers. What matters is often a relation of several, such as whether
    the hand is above the object; so a perceptron of one hidden layer can read them first, once for all calls.

    Args:
        spec: what it is built for. Its features are the perceptron's outputs and hidden units; 0 does without it.
        two_times: whether the network is called with two times.
        width: numbers that the network has in place of each number of an action.
    """

    def __init__(self, spec: ModelSpec, two_times: bool = False, width: int = 1) -> None:
        super().__init__(spec)
        sizes = {"dim": spec.action_dim * width, "cond_dim": spec.features or spec.cond_dim, "horizon": spec.horizon}
        told = {"token_dim": spec.token_dim} if spec.token_dim else {}
        self.net = build("net", spec.net, **sizes, **told, two_times=two_times)
        self.reader: nn.Sequential | None = None
        if spec.features:
            first, second = nn.Linear(spec.cond_dim, spec.features), nn.Linear(spec.features, spec.features)
            self.reader = nn.Sequential(first, nn.Mish(), second)

    def told(self, vector: Tensor) -> Condition:
        return Condition(vector if self.reader is None else self.reader(vector))

    def networks(self) -> list[nn.Module]:
        return [self.net]

    def carried(self, bind: Callable[[], FlowMap], x: Tensor, times: Tensor, cond: Condition, alike: bool) -> Sample:
        """Return chunks carried through `times` by a flow map of the network.

        One chunk on a GPU for which the network was compiled is one CUDA graph, from noise to actions.

        Args:
            bind: returns the flow map, without a history.
            x: (B, T_p, A) at the first of the times.
            times: (n,).
            cond: the condition.
            alike: whether x and the condition's vector are all in which calls with the present sampler differ.
        """
        graphs = self.net.graphs(x) if alike and len(x) == 1 and isinstance(self.net, Freezable) else None
        if graphs is None:
            flow = bind()
            return Sample(sample(flow, x, times, cond), flow.calls)
        name, flows = repr(self.sampler), []

        def chunk(x: Tensor, vector: Tensor) -> Tensor:
            flows.append(bind())
            return sample(flows[-1], x, times, Condition(vector))

        if name not in graphs:
            graphs[name] = Captured(chunk, x, cond.vector), flows[-1].calls
        graph, calls = graphs[name]
        return Sample(graph(x, cond.vector), calls)
