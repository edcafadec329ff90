"""The nearest demonstration's actions: the comparison that learns nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffpolicy.generative.shapes import Generators
from diffpolicy.policies.chunking import FROM_NOISE, SamplingContext
from diffpolicy.policies.models.base import ChunkModel, ModelSpec, Sample
from diffpolicy.policies.models.capabilities import Remembers
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import require

_BLOCK = 2**24  # distances computed at once, 64 MiB
_SPARE = 16  # candidates beyond k


@final
class NearestModel(ChunkModel, Remembers):
    """The actions that followed the most similar observations of the demonstrations.

    VINN (Pari et al. 2021) on normalized numbers instead of learned features of images: the mean of the actions of
    the k windows whose observation histories are nearest, weighted by softmax(-d) of the Euclidean distances d.

    Args:
        spec: what it is built for, with the number of windows to remember.
        k: number of windows that are averaged; 1 repeats one demonstration's actions.

    Raises:
        ValueError: k outside 1 to the number of windows.
    """

    learns = False
    has_net = False

    def __init__(self, spec: ModelSpec, k: int = 1) -> None:
        super().__init__(spec)
        count = spec.windows or 0
        require(count, f"windows={spec.windows} for nearest", "the number of training windows, which it remembers")
        require(1 <= k <= count, f"method.k={k}", f"1 to {count}, the training windows")
        self.k = k
        # NaN, so that a model that was shown nothing cannot pass for a policy
        self.register_buffer("conds", torch.full((count, spec.cond_dim), torch.nan))
        self.register_buffer("actions", torch.full((count, *self.shape), torch.nan))

    @torch.no_grad()
    def remember(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        pairs = [(batch["obs"].flatten(1), batch["action"]) for batch in batches]
        conds, actions = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        require(len(conds) == len(self.conds), f"{len(conds)} windows", f"{len(self.conds)}, as it was built for")
        self.conds.copy_(conds)
        self.actions.copy_(actions)

    def networks(self) -> list[nn.Module]:
        return []

    def chunk_loss(self, data: Tensor, cond: Condition, generator: Generators) -> Tensor:
        return functional.mse_loss(self._recall(cond.vector), data, reduction="none").flatten(1).mean(1)

    def sample(
        self, cond: Condition, generators: Sequence[torch.Generator], context: SamplingContext = FROM_NOISE
    ) -> Sample:
        return Sample(self._recall(cond.vector), 0)

    @torch.no_grad()
    def _recall(self, cond: Tensor) -> Tensor:
        lengths = self.conds.square().sum(1) / 2
        size = max(1, _BLOCK // len(lengths))
        return torch.cat([self._blend(part, lengths) for part in cond.split(size)])

    def _blend(self, cond: Tensor, lengths: Tensor) -> Tensor:
        # |m|²/2 - q·m is half the squared distance, up to what is the same for all m. The product rounds too coarsely
        # to tell near neighbors apart, and differently in larger batches: it only chooses the candidates.
        scores = torch.addmm(lengths, cond, self.conds.T, alpha=-1)
        close = scores.topk(min(self.k + _SPARE, len(lengths)), largest=False).indices.sort().values
        distances = (cond[:, None] - self.conds[close]).square().sum(-1).sqrt()
        distances, order = distances.sort(stable=True)  # of equals the first window
        weights = functional.softmax(-distances[:, : self.k], dim=1)
        chosen = close.take_along_dim(order[:, : self.k], 1)
        return torch.einsum("bk,bkta->bta", weights, self.actions[chosen])
