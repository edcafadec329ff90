"""Times that training draws where its losses have been large: importance sampling, with its history as state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from diffpolicy.generative.objectives import DenoisingObjective, Draw, Net
from diffpolicy.generative.paths import DiscretePath, Path
from diffpolicy.generative.shapes import Generators, whole
from diffpolicy.generative.weighting import NATIVE, TIMES
from diffpolicy.util import names
from diffpolicy.util.device import precise_dtype

LOSS_AWARE = "loss_aware"

BINS = 100  # of the continuous paths; a DiscretePath has one for each index
HISTORY = 10  # losses of a bin that its probability comes from
EVEN = 1e-3  # share of all draws that stays even, as in the authors' code: no loss is weighted by more than 1/EVEN


@final
class LossAware(nn.Module):
    """A denoising objective whose times are drawn where its losses have been large, and weighted back.

    Bin b of n, a part of [0, 1] or an index of a DiscretePath, is drawn with probability p_b ∝ √(E[loss²]) over its
    last losses, and the loss is divided by n·p_b, so that its expectation is that of even times and its variance
    smaller (Nichol & Dhariwal 2021, section 3.3, eq. 18). Until every bin has its history, times are drawn evenly.

    The history is a buffer: a checkpoint carries it, and a resumed run goes on with it. Ranks of one run gather the
    losses of the whole batch. In evaluation mode times are even and nothing is noted.

    Args:
        objective: the loss at a time; its own draw of times, evenly from [0, 1] or the indices, is the expectation's.

    Raises:
        ValueError: an objective whose own times are not even.
    """

    losses: Tensor
    counts: Tensor

    def __init__(self, objective: DenoisingObjective) -> None:
        super().__init__()
        discrete = isinstance(objective.path, DiscretePath)
        names.check("draw of times, of a loss-aware objective,", objective.times, [_even(objective.path)])
        self.objective, self._discrete = objective, discrete
        bins = objective.path.steps if discrete else BINS
        self.register_buffer("losses", torch.zeros(bins, HISTORY))  # each bin's last ones, in a ring
        self.register_buffer("counts", torch.zeros(bins, dtype=torch.int64))  # losses of each bin so far

    @property
    def condition_dropout(self) -> float:
        """The probability with which a condition is dropped."""
        return self.objective.condition_dropout

    def probabilities(self) -> Tensor:
        """Return the probability of each bin, (n,), in the most precise floating point of the device."""
        root = self.losses.to(precise_dtype(self.losses.device)).square().mean(1).sqrt()
        even = torch.full_like(root, 1 / len(root))
        known = (self.counts >= HISTORY).all() & (root.sum() > 0)
        return torch.where(known, (1 - EVEN) * root / root.sum() + EVEN * even, even)

    def bins(self, t: Tensor) -> Tensor:
        """Return the bins of times t, in their shape, int64."""
        n = len(self.counts)
        return (((1 - t) * n - 1).round() if self._discrete else (t * n).floor()).long().clamp(0, n - 1)

    def forward(self, net: Net, batch: Mapping[str, Any], generator: Generators = None) -> Tensor:
        """Return the loss (B,) of a batch."""
        return self._drawn(net, batch, generator)

    def prefixed(self, net: Net, batch: Mapping[str, Any], known: Tensor, generator: Generators = None) -> Tensor:
        """Return the loss (B,) of the steps that are not known, see `DenoisingObjective.prefixed`."""
        return self._drawn(net, batch, generator, known)

    def _drawn(
        self, net: Net, batch: Mapping[str, Any], generator: Generators, known: Tensor | None = None
    ) -> Tensor:
        if not self.training:
            return self.objective.drawn(net, batch, TIMES[self.objective.times], generator, known)[1]
        p = self.probabilities()
        t, loss = self.objective.drawn(net, batch, self._inverse(p), generator, known)
        at = self.bins(t)
        self._note(whole(at, generator), whole(loss.detach(), generator))
        return loss / (len(p) * p[at]).to(loss.dtype)

    def _inverse(self, p: Tensor) -> Draw:
        """Return the draw whose distribution function rises by p within each bin."""

        def draw(u: Tensor, path: Path) -> Tensor:
            each = p.to(u.device, u.dtype)
            ends = each.cumsum(0)
            at = torch.searchsorted(ends, u, right=True).clamp(max=len(each) - 1)
            if isinstance(path, DiscretePath):
                return path.time_at_index(at)
            return (at + (1 - (ends[at] - u) / each[at]).clamp(0, 1)) / len(each)

        return draw

    @torch.no_grad()
    def _note(self, at: Tensor, loss: Tensor) -> None:
        """Write losses (B,) into the rings of the bins `at` (B,), without a copy to the CPU."""
        at, order = at.sort(stable=True)
        new = torch.zeros_like(self.counts).index_add_(0, at, torch.ones_like(at))
        before = torch.arange(len(at), device=at.device) - torch.searchsorted(at, at)  # of its bin in this batch
        slot = at * HISTORY + (self.counts[at] + before) % HISTORY
        stays = new[at] - before <= HISTORY  # the others would be overwritten at once, and go into a spare slot
        ring = torch.cat([self.losses.flatten(), self.losses.new_zeros(1)])
        ring.scatter_(0, torch.where(stays, slot, self.losses.numel()), loss[order].to(ring.dtype))
        self.losses.copy_(ring[:-1].view_as(self.losses))
        self.counts += new


def _even(path: Path) -> str:
    return "discrete" if isinstance(path, DiscretePath) else "uniform"


def make_objective(
    path: Path,
    prediction: str,
    times: str = "uniform",
    weighting: str = NATIVE,
    condition_dropout: float = 0.0,
    learned_variance: bool = False,
) -> DenoisingObjective | LossAware:
    """Return the objective whose times are one of `TIMES`, or "loss_aware"; arguments as of `DenoisingObjective`.

    Raises:
        ValueError: unknown names or a probability outside [0, 1].
        TypeError: discrete times without a DiscretePath.
    """
    names.check("draw of times", times, (*TIMES, LOSS_AWARE))
    aware = times == LOSS_AWARE
    own = _even(path) if aware else times
    how = {"condition_dropout": condition_dropout, "learned_variance": learned_variance}
    objective = DenoisingObjective(path, prediction, own, weighting, **how)
    return LossAware(objective) if aware else objective
