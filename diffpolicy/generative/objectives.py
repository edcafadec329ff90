"""Training losses as entries of one table: draw of t × prediction type × weighting.

An objective is `loss(net, batch, generator) -> (B,)`. A batch is a mapping with "data" (B, *shape) and optionally
"cond" (whatever the network takes). Everything random comes from `generator`, in calls for the whole batch, so that a
loss can be computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from diffpolicy.generative.paths import DiscretePath, Path
from diffpolicy.generative.predictions import ALPHA_MIN, PREDICTIONS, SIGMA_MIN, data_gain, target
from diffpolicy.generative.shapes import Generators, as_input, joint, rand, randn
from diffpolicy.util import condition, names
from diffpolicy.util.device import precise_device, precise_dtype
from diffpolicy.util.errors import explain, require


def _low_discrepancy(u: Tensor, path: Path) -> Tensor:
    return (u[:1] + torch.arange(len(u), dtype=u.dtype, device=u.device) / max(len(u), 1)) % 1


def _discrete(u: Tensor, path: Path) -> Tensor:
    require(isinstance(path, DiscretePath), f"times='discrete' on {path!r}", "a DiscretePath", error=TypeError)
    return path.time_at_index((u * path.steps).floor())


# Draws of t, each as a function of uniform u (B,) on [0, 1).
TIMES: dict[str, Callable[[Tensor, Path], Tensor]] = {
    "uniform": lambda u, path: u,
    # sigmoid of a standard normal (Esser et al. 2024, eq. 19, m = 0, s = 1)
    "logit_normal": lambda u, path: torch.sigmoid(torch.special.ndtri(u)),
    # t = 0.999·(1 − b), b ~ Beta(1.5, 1), whose distribution function is b^1.5 (Black et al. 2024, app. B: π0)
    "beta": lambda u, path: 0.999 * (1 - u ** (1 / 1.5)),
    # (u_0 + i/B) mod 1: uniform for each sample, evenly spread over the batch (Kingma et al. 2021, app. I.1)
    "low_discrepancy": _low_discrepancy,
    "discrete": _discrete,
}

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


def uniform(shape: tuple[int, ...], generator: Generators, device: torch.device) -> Tensor:
    """Return uniform noise in float64: near t = 1 float32 leaves σ few digits.

    It lies on `device`, or on the CPU where that has no float64.
    """
    return rand(shape, generator, dtype=torch.float64, device=precise_device(device))


def draw(data: Tensor, times: str, path: Path, generator: Generators) -> tuple[Tensor, Tensor]:
    """Return times t (B,) and noise (B, *shape) for a batch of data, drawn in this order."""

    def batch_times(samples: int, generator: Generators) -> Tensor:
        return TIMES[times](uniform((samples,), generator, data.device), path)

    t = joint(batch_times, len(data), generator)  # a draw may spread its times over the batch
    t = t.to(data.device, precise_dtype(data.device))
    return t, randn(data.shape, generator, dtype=data.dtype, device=data.device)


@final
@dataclass(frozen=True)
class DenoisingObjective:
    """weight(t)·|net(x_t, t, cond) − target|² at x_t = α·data + σ·noise, averaged over all but the batch axis.

    Args:
        path: the probability path.
        prediction: what the network outputs, one of `PREDICTIONS`.
        times: how t is drawn, one of `TIMES`.
        weighting: "native", weight 1 in the prediction's own space, which is what flow matching, DDPM-simple and
            v-prediction use; or one of `WEIGHTINGS`, defined on the data-space loss and so the same loss for every
            prediction type. "uniform" makes noise and score losses very large near t = 0, "snr" data losses near
            t = 1, and "native" score losses near t = 1 and (logarithmically) velocity losses near t = 1 on the
            variance-preserving path.
        condition_dropout: probability with which a sample's condition is replaced by that of `net.null(cond)`, for
            classifier-free guidance.

    Raises:
        ValueError: unknown names or a probability outside [0, 1]; when called, a batch without "data" or without the
            "cond" that dropout needs.
        TypeError: discrete times without a DiscretePath.
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
        data, cond = entry(batch, "data"), batch.get("cond")
        t, noise = draw(data, self.times, self.path, generator)
        if self.condition_dropout:
            cond = self._drop(net, cond, generator, data)
        return self.at(net, data, noise, t, cond)

    def at(
        self, net: Net, data: Tensor, noise: Tensor, t: Tensor, cond: Any = None, known: Tensor | None = None
    ) -> Tensor:
        """Return the loss (B,) at given noise (B, *shape) and t (B,) or (B, T); what is `known` does not count."""
        x = self.path.interpolate(data, noise, t)
        error = net(x, as_input(t, x), cond) - target(self.prediction, data, noise, t, self.path)
        loss = self.weight(t).to(data.dtype) * error.square().flatten(t.ndim).mean(-1)
        if known is not None:
            return torch.where(known, 0, loss).sum(1) / (~known).sum(1)
        return loss if t.ndim == 1 else loss.mean(1)

    def prefixed(self, net: Net, batch: Mapping[str, Any], known: Tensor, generator: Generators = None) -> Tensor:
        """Return the loss (B,) of the steps that are not known, (B, T); the others enter clean, at time 1.

        Every sample has a step that is not known; nothing is dropped; the network takes a time per step.
        """
        data = entry(batch, "data")
        t, noise = draw(data, self.times, self.path, generator)
        t = torch.where(known, 1.0, t[:, None].expand(known.shape))
        return self.at(net, data, noise, t, batch.get("cond"), known)

    def _drop(self, net: Net, cond: Any, generator: Generators, data: Tensor) -> Any:
        if cond is None:
            given = f"condition_dropout={self.condition_dropout} without a batch['cond']"
            raise ValueError(explain(given, cure="set it to 0 for a network without condition"))
        dropped = uniform(data.shape[:1], generator, data.device) < self.condition_dropout
        return condition.where(dropped.to(data.device), net.null(cond), cond)
