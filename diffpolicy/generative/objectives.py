"""Training losses as entries of one table: draw of t × prediction type × weighting.

An objective is `loss(net, batch, generator) -> (B,)`. A batch is a mapping with "data" (B, *shape) and optionally
"cond" (whatever the network takes) and "start" (B, *shape), which stands for the noise. Everything random comes from
`generator`, in calls for the whole batch, so that a loss can be computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from diffpolicy.generative.paths import Path
from diffpolicy.generative.predictions import ALPHA_MIN, PREDICTIONS, SIGMA_MIN, data_gain, halves, target
from diffpolicy.generative.shapes import Generators, as_input, joint, uniform
from diffpolicy.generative.starts import COUPLINGS, draw_start
from diffpolicy.generative.variance import variance_loss
from diffpolicy.generative.weighting import NATIVE, TIMES, WEIGHTINGS, Draw
from diffpolicy.util import condition, names
from diffpolicy.util.device import precise_dtype
from diffpolicy.util.errors import require

Net = Callable[..., Tensor]

# The methods of the notes, `DenoisingObjective(path, **ROWS["flow_matching"])`.
ROWS: dict[str, dict[str, str]] = {
    "flow_matching": {"prediction": "velocity", "times": "uniform", "weighting": NATIVE},
    "score_matching": {"prediction": "score", "times": "uniform", "weighting": "snr"},  # σ²·|s + ε/σ|²
    "ddpm_simple": {"prediction": "noise", "times": "discrete", "weighting": NATIVE},
    "v_prediction": {"prediction": "v", "times": "uniform", "weighting": NATIVE},
}


def entry(batch: Mapping[str, Any], name: str) -> Tensor:
    """Return batch[name].

    Raises:
        ValueError: the batch has no such entry.
    """
    require(name in batch, f"a batch of {sorted(batch)}", f"one with {name!r} (B, ...)")
    return batch[name]


def draw(
    batch: Mapping[str, Any], times: Draw, path: Path, generator: Generators, coupling: str = "independent"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the data (B, *shape) of a batch, times t (B,) and noise (B, *shape), drawn in this order."""
    data = entry(batch, "data")

    def batch_times(samples: int, generator: Generators) -> Tensor:
        return times(uniform((samples,), generator, data.device), path)

    t = joint(batch_times, len(data), generator)  # a draw may spread its times over the batch
    t = t.to(data.device, precise_dtype(data.device))
    return data, t, draw_start(batch, data, generator, coupling)


def drop_condition(net: Net, cond: Any, share: float, data: Tensor, generator: Generators) -> tuple[Any, Tensor]:
    """Return `cond` with that of `net.null` in place of a random share of it, and where that is so, (B,) boolean.

    Raises:
        ValueError: there is no condition.
    """
    given = f"condition_dropout={share} without a batch['cond']"
    require(cond is not None, given, cure="set it to 0 for a network without condition")
    dropped = (uniform(data.shape[:1], generator, data.device) < share).to(data.device)
    return condition.where(dropped, net.null(cond), cond), dropped


@final
@dataclass(frozen=True)
class DenoisingObjective:
    """weight(t)·|net(x_t, t, cond) − target|² at x_t = α·data + σ·noise, averaged over all but the batch axis.

    Args:
        path: the probability path.
        prediction: what the network outputs, one of `PREDICTIONS`.
        times: how t is drawn, one of `TIMES`; where the loss is large, by `times.LossAware` around this objective.
        weighting: "native", weight 1 in the prediction's own space, which is what flow matching, DDPM-simple and
            v-prediction use; or one of `WEIGHTINGS`, defined on the data-space loss and so the same loss for every
            prediction type. "uniform" makes noise and score losses very large near t = 0, "snr" data losses near
            t = 1, and "native" score losses near t = 1 and (logarithmically) velocity losses near t = 1 on the
            variance-preserving path.
        learned_variance: see `ModelField`.
        condition_dropout: probability with which a sample's condition is replaced by that of `net.null(cond)`, for
            classifier-free guidance.
        coupling: how noise, or the batch's own "start", is paired with the data, see `starts.draw_start`.

    Raises:
        ValueError: unknown names or a probability outside [0, 1]; when called, a batch without "data" or without the
            "cond" that dropout needs, or what `draw_start` refuses.
        TypeError: discrete times without a DiscretePath.
    """

    path: Path
    prediction: str
    times: str = "uniform"
    weighting: str = NATIVE
    condition_dropout: float = 0.0
    coupling: str = "independent"
    learned_variance: bool = False

    def __post_init__(self) -> None:
        names.check("prediction", self.prediction, PREDICTIONS)
        names.check("draw of times", self.times, TIMES)
        names.check("weighting", self.weighting, (NATIVE, *WEIGHTINGS))
        names.check("coupling", self.coupling, COUPLINGS)
        dropout = self.condition_dropout
        require(0 <= dropout <= 1, f"condition_dropout={dropout}", "a probability in [0, 1]")
        TIMES[self.times](torch.zeros(1, dtype=torch.float64), self.path)

    def weight(self, t: Tensor) -> Tensor:
        """Return the factor on the squared error in the prediction's own space; clamped as `data_gain` is."""
        if self.weighting == NATIVE:
            return torch.ones_like(t)
        snr = (self.path.alpha(t).clamp(min=ALPHA_MIN) / self.path.sigma(t).clamp(min=SIGMA_MIN)) ** 2
        return WEIGHTINGS[self.weighting](snr) * data_gain(self.prediction, t, self.path) ** 2

    def __call__(self, net: Net, batch: Mapping[str, Any], generator: Generators = None) -> Tensor:
        return self.drawn(net, batch, TIMES[self.times], generator)[1]

    def at(
        self, net: Net, data: Tensor, noise: Tensor, t: Tensor, cond: Any = None, known: Tensor | None = None
    ) -> Tensor:
        """Return the loss (B,) at given noise (B, *shape) and t (B,) or (B, T); what is `known` does not count."""
        x = self.path.interpolate(data, noise, t)
        output, v = halves(net(x, as_input(t, x), cond), x, self.learned_variance)
        error = output - target(self.prediction, data, noise, t, self.path)
        loss = self.weight(t).to(data.dtype) * error.square().flatten(t.ndim).mean(-1)
        if v is not None:  # a learned variance
            loss = loss + variance_loss(self.prediction, v, error, t, self.path)
        if known is not None:
            return torch.where(known, 0, loss).sum(1) / (~known).sum(1)
        return loss if t.ndim == 1 else loss.mean(1)

    def prefixed(self, net: Net, batch: Mapping[str, Any], known: Tensor, generator: Generators = None) -> Tensor:
        """Return the loss (B,) of the steps that are not known, (B, T); the others enter clean, at time 1.

        Every sample has a step that is not known; nothing is dropped; the network takes a time per step.
        """
        return self.drawn(net, batch, TIMES[self.times], generator, known)[1]

    def drawn(
        self, net: Net, batch: Mapping[str, Any], times: Draw, generator: Generators, known: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return times (B,), as `times` draws them, and the loss (B,) there; of known steps, see `prefixed`."""
        data, t, noise = draw(batch, times, self.path, generator, self.coupling)
        cond, each = batch.get("cond"), t
        if known is not None:
            each = torch.where(known, 1.0, t[:, None].expand(known.shape))
        elif self.condition_dropout:
            cond, _ = drop_condition(net, cond, self.condition_dropout, data, generator)
        return t, self.at(net, data, noise, each, cond, known)
