"""Training losses as rows of one table: draw of t × prediction type × weighting.

An objective is `loss(net, batch, generator) -> (B,)`, one value per sample. A batch is a mapping with "data"
(B, *shape) and optionally "cond" (whatever the network takes). One more teaches the classifier that classifier
guidance needs. Everything random comes from `generator`, in
calls for the whole batch, so that a loss can be computed again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from diffpolicy.generative.guidance import class_log_prob
from diffpolicy.generative.paths import DiscretePath, Path
from diffpolicy.generative.predictions import (
    ALPHA_MIN,
    PREDICTIONS,
    SIGMA_MIN,
    data_gain,
    target,
)
from diffpolicy.generative.shapes import Generators, joint, rand, randn
from diffpolicy.util import condition, names
from diffpolicy.util.errors import explain


def _low_discrepancy(u: Tensor, path: Path) -> Tensor:
    return (u[:1] + torch.arange(len(u), dtype=u.dtype, device=u.device) / max(len(u), 1)) % 1


def _discrete(u: Tensor, path: Path) -> Tensor:
    if not isinstance(path, DiscretePath):
        raise TypeError(f"times='discrete' draws the indices of a DiscretePath, got {path!r}")
    return path.time_at_index((u * path.steps).floor())


# Draws of t, each as a function of uniform u (B,) on [0, 1).
TIMES: dict[str, Callable[[Tensor, Path], Tensor]] = {
    "uniform": lambda u, path: u,
    # sigmoid of a standard normal (Esser et al. 2024, eq. 19, m = 0, s = 1)
    "logit_normal": lambda u, path: torch.sigmoid(torch.special.ndtri(u)),
    # t = 0.999·(1 − b), b ~ Beta(1.5, 1), whose distribution function is b^1.5 (Black et al. 2024, app. B: π0)
    "beta": lambda u, path: 0.999 * (1 - u ** (1 / 1.5)),
    # (u_0 + i/B) mod 1: uniform for each row, evenly spread over the batch (Kingma et al. 2021, app. I.1)
    "low_discrepancy": _low_discrepancy,
    "discrete": _discrete,
}


def _draw(data: Tensor, name: str, path: Path, generator: Generators) -> tuple[Tensor, Tensor]:
    """t (B,) and the noise (B, *shape) for a batch of data, in this order."""

    def times(rows: int, generator: Generators) -> Tensor:
        # float64, as in sampling: near t = 1 float32 leaves σ few digits
        u = rand((rows,), generator, dtype=torch.float64, device=data.device)
        return TIMES[name](u, path)

    t = joint(times, len(data), generator)  # a draw may spread its times over the batch
    return t, randn(data.shape, generator, dtype=data.dtype, device=data.device)


def entry(batch: Mapping[str, Any], name: str) -> Tensor:
    if name not in batch:
        raise ValueError(f"a batch needs {name!r} (B, ...); this one has {sorted(batch)}")
    return batch[name]


MIN_SNR_GAMMA = 5.0
SIGMOID_BIAS = 2.0

# Weights of the data-space loss |data − estimate|² as functions of the SNR α²/σ². SNR is the noise loss.
WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": torch.ones_like,
    "snr": lambda snr: snr,
    # min(SNR, γ) (Hang et al. 2023, eq. 11)
    "min_snr": lambda snr: snr.clamp(max=MIN_SNR_GAMMA),
    # sigmoid(b − log SNR) on the noise loss (Kingma & Gao 2023, app. D), times SNR on the data loss
    "sigmoid": lambda snr: snr * torch.sigmoid(SIGMOID_BIAS - snr.log()),
}
NATIVE = "native"


@final
@dataclass(frozen=True)
class DenoisingObjective:
    """weight(t)·|net(x_t, t, cond) − target|² at x_t = α·data + σ·noise, averaged over all but the batch axis.

    Args:
        path: the probability path.
        prediction: what the network outputs, one of `PREDICTIONS`.
        times: how t is drawn, one of `TIMES`.
        weighting: "native", weight 1 in the prediction's own space, which is what flow matching,
            DDPM-simple and v-prediction use; or one of `WEIGHTINGS`, defined on the data-space loss and so
            the same loss for every prediction type. "uniform" makes noise and score losses very large near
            t = 0, "snr" data losses near t = 1, and "native" score losses near t = 1 and (logarithmically)
            velocity losses near t = 1 on the variance-preserving path.
        condition_dropout: probability with which a row's condition is replaced by that of `net.null(cond)`,
            for classifier-free guidance.

    Raises ValueError for unknown names or a probability outside [0, 1], TypeError for discrete times
    without a DiscretePath; when called, ValueError for a batch without "data" or without the "cond" that
    dropout needs.
    """

    path: Path
    prediction: str
    times: str = "uniform"
    weighting: str = NATIVE
    condition_dropout: float = 0.0

    def __post_init__(self) -> None:
        names.check("prediction", self.prediction, PREDICTIONS)
        names.check("draw of times", self.times, TIMES)
        names.check("weighting", self.weighting, (NATIVE, *WEIGHTINGS))
        if not 0 <= self.condition_dropout <= 1:
            raise ValueError(f"condition_dropout is a probability in [0, 1], got {self.condition_dropout}")
        TIMES[self.times](torch.zeros(1, dtype=torch.float64), self.path)

    def weight(self, t: Tensor) -> Tensor:
        """The factor (B,) on the squared error in the prediction's own space; clamped as `data_gain` is."""
        if self.weighting == NATIVE:
            return torch.ones_like(t)
        snr = (self.path.alpha(t).clamp(min=ALPHA_MIN) / self.path.sigma(t).clamp(min=SIGMA_MIN)) ** 2
        return WEIGHTINGS[self.weighting](snr) * data_gain(self.prediction, t, self.path) ** 2

    def __call__(self, net: Callable[..., Tensor], batch: Mapping[str, Any], generator: Generators = None) -> Tensor:
        data, cond = entry(batch, "data"), batch.get("cond")
        t, noise = _draw(data, self.times, self.path, generator)
        if self.condition_dropout:
            cond = self._drop(net, cond, generator, data)
        x = self.path.interpolate(data, noise, t)
        error = net(x, t.to(x.dtype), cond) - target(self.prediction, data, noise, t, self.path)
        return self.weight(t).to(data.dtype) * error.square().flatten(1).mean(1)

    def _drop(self, net: Callable[..., Tensor], cond: Any, generator: Generators, like: Tensor) -> Any:
        if cond is None:
            given = f"condition_dropout={self.condition_dropout} without a batch['cond']"
            raise ValueError(explain(given, cure="set it to 0 for a network without condition"))
        u = rand(like.shape[:1], generator, dtype=torch.float64, device=like.device)
        return condition.where(u < self.condition_dropout, net.null(cond), cond)


@final
@dataclass(frozen=True)
class ClassifierObjective:
    """−log p(cond|x_t) of a classifier `net(x, t) -> logits (B, classes)`, at x_t of every noise level.

    What classifier guidance needs: one that saw clean data alone has no gradient to speak of at x_t (Dhariwal &
    Nichol 2021, section 4.2). The batch's "cond" is (B,) int64. Raises ValueError for an unknown draw of times, and
    when called for a batch without "data" or "cond".
    """

    path: Path
    times: str = "uniform"

    def __post_init__(self) -> None:
        names.check("draw of times", self.times, TIMES)

    def __call__(self, net: Callable[..., Tensor], batch: Mapping[str, Any], generator: Generators = None) -> Tensor:
        data, cond = entry(batch, "data"), entry(batch, "cond")
        t, noise = _draw(data, self.times, self.path, generator)
        return -class_log_prob(net, self.path.interpolate(data, noise, t), t, cond)


# The methods of the notes, `DenoisingObjective(path, **ROWS["flow_matching"])`.
ROWS: dict[str, dict[str, str]] = {
    "flow_matching": {"prediction": "velocity", "times": "uniform", "weighting": NATIVE},
    "score_matching": {"prediction": "score", "times": "uniform", "weighting": "snr"},  # σ²·|s + ε/σ|²
    "ddpm_simple": {"prediction": "noise", "times": "discrete", "weighting": NATIVE},
    "v_prediction": {"prediction": "v", "times": "uniform", "weighting": NATIVE},
}
