"""What generative policies are compared with: a recurrent mixture of Gaussians, and the nearest demonstration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffpolicy.generative.shapes import Generators, rand, randn
from diffpolicy.nets.lstm_gmm import LSTMGaussianMixture
from diffpolicy.policies.actors import Actor, refuse_solver
from diffpolicy.policies.execution import FROM_NOISE, Plan


@final
class LSTMGMMActor(Actor):
    """BC-RNN-GMM (Mandlekar et al. 2021): after each observation of the history, a mixture over the action of then.

    The loss is the negative log-likelihood of the window's actions, the mean over its steps. To act, the network runs
    over the T_o last observations and draws an action for each; a policy executes the last one. The published one
    keeps its LSTM's state between steps and begins anew every T_o; here each action sees exactly T_o observations.

    Args:
        dim, cond_dim, horizon, obs_horizon: A, C = T_o·D, T_p and T_o; T_p = T_o.
        hidden, layers, modes, min_std: see `LSTMGaussianMixture`.
        std: of the components when acting, in normalised units; None draws with those that were learned. The
            published 1e-4 ("low noise evaluation") draws a mode, and of it hardly more than its mean.

    Raises:
        ValueError: T_p ≠ T_o, or sizes that are not positive.
    """

    bound = 1.0

    def __init__(
        self,
        dim: int,
        cond_dim: int,
        horizon: int,
        obs_horizon: int,
        hidden: int = 400,
        layers: int = 2,
        modes: int = 5,
        min_std: float = 1e-4,
        std: float | None = None,
    ) -> None:
        super().__init__()
        if obs_horizon != horizon:
            raise ValueError(
                f"lstm_gmm predicts one action after each observation, so T_o and T_p must be equal; given "
                f"policy.obs_horizon={obs_horizon} and policy.horizon={horizon}: take 10 for both, and "
                "policy.action_horizon=1, as published"
            )
        if std is not None and not std >= 0:
            raise ValueError(f"std must be at least 0, or null for the learned ones; given {std}")
        self.shape = (horizon, dim)
        self.std = std
        self.net = LSTMGaussianMixture(dim, cond_dim // obs_horizon, hidden, layers, modes, min_std)

    def networks(self) -> list[nn.Module]:
        return []  # an LSTM is one call of its library, which torch.compile passes by

    def configure(
        self, solver: str | None, steps: int | None, grid: str | None, options: Mapping[str, Any] | None
    ) -> None:
        refuse_solver("lstm_gmm draws from a mixture, without a solver", solver, steps, grid, options)

    def loss(self, batch: Mapping[str, Tensor], generator: Generators) -> Tensor:
        return -self.net(self._steps(batch["cond"])).log_prob(batch["data"]).mean(1)

    @torch.no_grad()
    def act(self, cond: Tensor, generators: Sequence[torch.Generator], plan: Plan = FROM_NOISE) -> Tensor:
        self.calls = 1
        like = {"dtype": cond.dtype, "device": cond.device}
        uniform = rand((len(cond), self.shape[0]), generators, **like)
        normal = randn((len(cond), *self.shape), generators, **like)
        return self.net(self._steps(cond)).draw(uniform, normal, self.std)

    def _steps(self, cond: Tensor) -> Tensor:
        return cond.unflatten(1, (self.shape[0], -1))


@final
class NearestActor(Actor):
    """The actions that followed the most similar observations of the demonstrations. It learns nothing: it remembers.

    VINN (Pari et al. 2021) on normalised numbers instead of learned features of images: of the k windows whose
    observation histories are nearest, by Euclidean distances d, the mean of the actions weighted by softmax(−d).

    Args:
        dim, cond_dim, horizon: A, C and T_p.
        windows: how many are remembered, see `remember`.
        k: how many are asked; 1 repeats one demonstration's actions.

    Raises:
        ValueError: k beyond 1 … windows.
    """

    def __init__(self, dim: int, cond_dim: int, horizon: int, windows: int, k: int = 1) -> None:
        super().__init__()
        if not 1 <= k <= windows:
            raise ValueError(f"k must lie in 1 to {windows}, the windows to choose from; given {k}")
        self.shape, self.k = (horizon, dim), k
        # NaN, so that what acts without a memory cannot pass for a policy.
        self.register_buffer("conds", torch.full((windows, cond_dim), torch.nan))
        self.register_buffer("actions", torch.full((windows, horizon, dim), torch.nan))

    @torch.no_grad()
    def remember(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Take the windows of all batches, "cond" (B, C) and "data" (B, T_p, A), into memory.

        Raises:
            ValueError: not as many as it was made for.
        """
        pairs = [(batch["cond"], batch["data"]) for batch in batches]
        conds, actions = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        if len(conds) != len(self.conds):
            raise ValueError(f"this memory was made for {len(self.conds)} windows; given {len(conds)}")
        self.conds.copy_(conds)
        self.actions.copy_(actions)

    def networks(self) -> list[nn.Module]:
        return []

    def configure(
        self, solver: str | None, steps: int | None, grid: str | None, options: Mapping[str, Any] | None
    ) -> None:
        refuse_solver("nearest draws nothing", solver, steps, grid, options)

    def loss(self, batch: Mapping[str, Tensor], generator: Generators) -> Tensor:
        error = functional.mse_loss(self._recall(batch["cond"]), batch["data"], reduction="none")
        return error.flatten(1).mean(1)

    def act(self, cond: Tensor, generators: Sequence[torch.Generator], plan: Plan = FROM_NOISE) -> Tensor:
        return self._recall(cond)

    @torch.no_grad()
    def _recall(self, cond: Tensor) -> Tensor:
        lengths = self.conds.square().sum(1) / 2
        rows = max(1, _BLOCK // len(lengths))
        return torch.cat([self._blend(part, lengths) for part in cond.split(rows)])

    def _blend(self, cond: Tensor, lengths: Tensor) -> Tensor:
        # |m|²/2 − q·m is half the squared distance, up to what is the same for all m. The product rounds too coarsely
        # to tell near neighbours apart, and otherwise in larger batches: it chooses who is looked at closely.
        scores = torch.addmm(lengths, cond, self.conds.T, alpha=-1)
        close = scores.topk(min(self.k + _SPARE, len(lengths)), largest=False).indices.sort().values
        distances = (cond[:, None] - self.conds[close]).square().sum(-1).sqrt()
        distances, order = distances.sort(stable=True)  # of equals the first window
        weights = functional.softmax(-distances[:, : self.k], dim=1)
        chosen = close.take_along_dim(order[:, : self.k], 1)
        return torch.einsum("bk,bkta->bta", weights, self.actions[chosen])


_BLOCK = 2**24  # distances computed at once, 64 MiB
_SPARE = 16  # candidates beyond k
