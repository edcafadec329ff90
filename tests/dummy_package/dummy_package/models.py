"""A method of one's own."""

import torch
from torch import nn
from torch.nn import functional

from diffpolicy.policies.chunking import FROM_NOISE
from diffpolicy.policies.models import NetworkModel, Sample


class GaussianModel(NetworkModel):
    """A Gaussian around the network's answer, with one standard deviation per number of an action.

    Args:
        spec: what it is built for.
        min_std: bound of the standard deviations, in normalized units.
    """

    def __init__(self, spec, min_std=1e-3):
        super().__init__(spec)
        self.min_std = min_std
        self.raw_std = nn.Parameter(torch.zeros(spec.action_dim))

    def chunk_loss(self, data, cond, generator):
        """Return minus the log-likelihood (B,) of demonstrated chunks (B, T_p, A), up to a constant."""
        std = self._std()
        errors = (data - self._mean(cond)) / std
        return (errors**2 / 2 + std.log()).flatten(1).mean(1)

    @torch.no_grad()
    def sample(self, cond, generators, context=FROM_NOISE):
        """Return a chunk per condition, each drawn from its own generator."""
        noise = torch.stack([torch.randn(self.shape, generator=one) for one in generators])
        return Sample(self._mean(cond) + self._std() * noise.to(self.device), calls=1)

    def _mean(self, cond):
        empty = cond.vector.new_zeros(len(cond.vector), *self.shape)
        return self.net(empty, empty[:, 0, 0], cond)

    def _std(self):
        return functional.softplus(self.raw_std) + self.min_std
