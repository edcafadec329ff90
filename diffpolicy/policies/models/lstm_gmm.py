"""BC-RNN-GMM: a recurrent network that gives a mixture of Gaussians over the action of each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from diffpolicy.generative.shapes import Generators, rand, randn
from diffpolicy.nets.lstm_gmm import LSTMGaussianMixture
from diffpolicy.policies.chunking import FROM_NOISE, SamplingContext
from diffpolicy.policies.models.base import ChunkModel, ModelSpec, Sample
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import require


@final
class LSTMGMMModel(ChunkModel):
    """After each observation of the history a mixture over the action at that time (Mandlekar et al. 2021).

    The loss is the negative log-likelihood of the window's actions, averaged over its steps. When acting, the network
    runs over the last T_o observations and draws an action for each; a policy executes the last one. The published
    method keeps the LSTM's state between steps and resets it every T_o; here each action sees exactly T_o
    observations.

    Args:
        spec: what it is built for, with T_p = T_o.
        hidden: units of an LSTM layer.
        layers: number of LSTM layers.
        modes: components of the mixture.
        min_std: least standard deviation of a component, in normalized units.
        std: standard deviation of the components when acting, in normalized units; None draws with the learned ones.
            The published 1e-4 ("low noise evaluation") draws a mode and hardly more than its mean.

    Raises:
        ValueError: T_p ≠ T_o, or sizes that are not positive.
    """

    has_net = False
    half_precisions = ()  # torch's LSTM has none on the CPU
    bound = 1.0
    takes_instructions = False  # of its condition every part is a moment
    drops_history = False  # it learns the action after every observation

    def __init__(
        self,
        spec: ModelSpec,
        hidden: int = 400,
        layers: int = 2,
        modes: int = 5,
        min_std: float = 1e-4,
        std: float | None = None,
    ) -> None:
        super().__init__(spec)
        steps = spec.obs_horizon
        given = f"policy.obs_horizon={steps} and policy.horizon={spec.horizon} for lstm_gmm"
        equal = "equal horizons, since it predicts one action after each observation"
        require(steps == spec.horizon, given, equal, "take 10 for both and policy.action_horizon=1, as published")
        require(std is None or std >= 0, f"method.std={std}", "at least 0, or null for the learned ones")
        self.std = std
        self.net = LSTMGaussianMixture(spec.action_dim, spec.cond_dim // steps, hidden, layers, modes, min_std)

    def networks(self) -> list[nn.Module]:
        return []  # an LSTM is one call of its library, which torch.compile leaves alone

    def chunk_loss(self, data: Tensor, cond: Condition, generator: Generators) -> Tensor:
        return -self.net(self._steps(cond)).log_prob(data).mean(1)

    @torch.no_grad()
    def sample(
        self, cond: Condition, generators: Sequence[torch.Generator], context: SamplingContext = FROM_NOISE
    ) -> Sample:
        like = cond.vector
        kind = {"dtype": like.dtype, "device": like.device}
        uniform = rand((len(like), self.spec.horizon), generators, **kind)
        normal = randn((len(like), *self.shape), generators, **kind)
        return Sample(self.net(self._steps(cond)).draw(uniform, normal, self.std), 1)

    def _steps(self, cond: Condition) -> Tensor:
        return cond.vector.unflatten(1, (self.spec.horizon, -1))
