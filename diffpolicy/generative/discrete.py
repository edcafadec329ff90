"""Discrete data by continuous-time Markov chains: tokens that jump from noise (t = 0) to data (t = 1).

A sample is x (B, *shape) of integers, one token per position. At time t every position is the data's with
probability t, and else noise: a mask, or any token (`TokenPath`). The chain that has these marginals changes a
position at the rate 1/(1 − t), into a token drawn from what the data are likely to be there, p(data_i | x_t)
(Campbell et al. 2024; Gat et al. 2024). A network that tells these probabilities, taught by cross-entropy, is all
that it takes:

- a network `net(x, t, cond) -> (B, *shape, K)` of logits;
- `TokenObjective`, its loss; `TokenSampler`, a flow map for `sample`, the loop that all else here is sampled by.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from diffpolicy.generative.objectives import drop_condition, entry
from diffpolicy.generative.predictions import FlowMap
from diffpolicy.generative.sampling import sample
from diffpolicy.generative.shapes import Generators, as_input, expand, rand, uniform
from diffpolicy.util import names
from diffpolicy.util.device import precise_dtype
from diffpolicy.util.errors import explain, require

Net = Callable[..., Tensor]
_LOGIT_MIN = -1e9  # of a token that cannot be: finite, as gradients of −∞ are NaN


@dataclass(frozen=True)
class TokenPath(ABC):
    """Tokens of which a share t are the data's and the others noise.

    Args:
        levels: K, the number of different tokens of the data, 0 … K − 1.

    Raises:
        ValueError: fewer than two levels.
    """

    levels: int
    masks: ClassVar[int] = 0  # tokens of noise alone, which follow those of the data

    def __post_init__(self) -> None:
        whole = isinstance(self.levels, int) and self.levels >= 2
        require(whole, f"levels={self.levels!r}", "an integer >= 2")

    @property
    def tokens(self) -> int:
        """The number of tokens that x_t may hold."""
        return self.levels + self.masks

    @abstractmethod
    def noise(self, shape: tuple[int, ...], generator: Generators, device: torch.device | str) -> Tensor:
        """Return noise of `shape` (B, *rest), int64."""

    @abstractmethod
    def settled(self, x: Tensor) -> Tensor:
        """Return the positions of x that are known to be the data's, boolean in the shape of x."""

    @abstractmethod
    def leaving(self, t: Tensor, s: Tensor, kept: Tensor) -> Tensor:
        """Return the probability (B,) to draw a position, such that at s a share s of them is the data's.

        Args:
            t: (B,).
            s: (B,).
            kept: (B,), the probability with which what is not drawn stays as it is, and does not become noise.
        """

    def corrupt(self, data: Tensor, t: Tensor, generator: Generators) -> Tensor:
        """Return x_t of data (B, *shape) at t (B,).

        Raises:
            ValueError: data that are no int64 tokens from 0 to K − 1.
        """
        known = data.dtype == torch.int64 and bool(((data >= 0) & (data < self.levels)).all())
        require(known, f"data of {data.dtype}", f"int64 tokens from 0 to {self.levels - 1}")
        kept = rand(data.shape, generator, dtype=torch.float32, device=data.device) < expand(t, data.float())
        return torch.where(kept, data, self.noise(tuple(data.shape), generator, data.device))


@final
@dataclass(frozen=True)
class MaskPath(TokenPath):
    """Noise is one further token, the mask, number K: what is not masked is the data's."""

    masks: ClassVar[int] = 1

    def noise(self, shape: tuple[int, ...], generator: Generators, device: torch.device | str) -> Tensor:
        return torch.full(shape, self.levels, dtype=torch.int64, device=device)

    def settled(self, x: Tensor) -> Tensor:
        return x != self.levels

    def leaving(self, t: Tensor, s: Tensor, kept: Tensor) -> Tensor:
        return (s - kept * t) / (1 - t)  # of the masked ones: kept·t + leaving·(1 − t) = s


@final
@dataclass(frozen=True)
class UniformPath(TokenPath):
    """Noise is any token, all equally likely: nothing is known to be the data's, and every position may change."""

    def noise(self, shape: tuple[int, ...], generator: Generators, device: torch.device | str) -> Tensor:
        u = rand(shape, generator, dtype=torch.float32, device=device)
        return (u * self.levels).long().clamp(max=self.levels - 1)

    def settled(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x, dtype=torch.bool)

    def leaving(self, t: Tensor, s: Tensor, kept: Tensor) -> Tensor:
        return (s - kept * t) / (1 - kept * t)  # of all: leaving + (1 − leaving)·kept·t = s


TOKEN_PATHS: dict[str, type[TokenPath]] = {"mask": MaskPath, "uniform": UniformPath}


@final
@dataclass(frozen=True)
class TokenObjective:
    """−log p(data_i | x_t), averaged over the positions that x_t does not tell: cross-entropy.

    Args:
        path: of the tokens.
        condition_dropout: probability with which a sample's condition is replaced by that of `net.null(cond)`.

    Raises:
        ValueError: a probability outside [0, 1]; when called, a batch without "data", or data that are no tokens.
    """

    path: TokenPath
    condition_dropout: float = 0.0

    def __post_init__(self) -> None:
        dropout = self.condition_dropout
        require(0 <= dropout <= 1, f"condition_dropout={dropout}", "a probability in [0, 1]")

    def __call__(self, net: Net, batch: Mapping[str, Any], generator: Generators = None) -> Tensor:
        data, cond = entry(batch, "data"), batch.get("cond")
        t = uniform(data.shape[:1], generator, data.device).to(data.device, precise_dtype(data.device))
        x = self.path.corrupt(data, t, generator)
        if self.condition_dropout:
            cond, _ = drop_condition(net, cond, self.condition_dropout, data, generator)
        hidden = ~self.path.settled(x)
        loss = -_log_probs(net, x, t, cond, self.path.levels).gather(-1, data[..., None])[..., 0]
        return (loss * hidden).flatten(1).sum(1) / hidden.flatten(1).sum(1).clamp(min=1)


@torch.no_grad()
def token_bound(net: Net, path: TokenPath, data: Tensor, cond: Any, generator: Generators, times: int) -> Tensor:
    """Return an upper bound of −log p(data | cond) (B,), in nats, for tokens that masks hide.

    It is the variational bound in continuous time, ∫₀¹ E[Σ −log p(dataᵢ | x_t)]/(1 − t) dt over the masked i
    (Sahoo et al. 2024, section 3, for a share t that is not masked), at one random time in each of `times` parts.

    Args:
        net: see `TokenSampler`.
        path: of the tokens, by masks.
        data: tokens (B, *shape), int64.
        cond: condition of the batch.
        generator: of times and masks.
        times: parts of [0, 1], each a call of the network.

    Raises:
        ValueError: another path, no times, or data that are no tokens.
    """
    require(isinstance(path, MaskPath), f"the bound of tokens by a {type(path).__name__}", "a MaskPath")
    require(times >= 1, f"times={times}", "an integer >= 1")
    total = torch.zeros(len(data), dtype=precise_dtype(data.device), device=data.device)
    for k in range(times):
        t = (k + uniform(data.shape[:1], generator, data.device).to(total)) / times
        x = path.corrupt(data, t, generator)
        loss = -_log_probs(net, x, t, cond, path.levels).gather(-1, data[..., None])[..., 0]
        total += (loss * ~path.settled(x)).flatten(1).sum(1) / (1 - t)
    return total / times


def to_tokens(x: Tensor, levels: int) -> Tensor:
    """Return numbers in [−1, 1], and what overshoots, as tokens 0 … levels − 1 of equal width."""
    return ((x + 1) / 2 * levels).long().clamp(0, levels - 1)


def from_tokens(tokens: Tensor, levels: int) -> Tensor:
    """Return the middle of each token's interval of [−1, 1], float32."""
    return (2 * tokens.float() + 1) / levels - 1


SAMPLERS = ("tau_leaping", "euler")


def check_sampler(method: str, churn: float = 0.0, temperature: float = 1.0) -> None:
    """Check the name of a sampler of tokens, its churn and its temperature.

    Raises:
        ValueError: an unknown name, or a number that is out of range or none.
    """
    names.check("sampler of tokens", method, SAMPLERS)
    number = isinstance(churn, int | float) and 0 <= churn < math.inf
    require(number, f"churn={churn!r}", "a finite number >= 0")
    number = isinstance(temperature, int | float) and 0 < temperature < math.inf
    require(number, f"temperature={temperature!r}", "a finite number above 0")


@final
class TokenSampler(FlowMap):
    """The chain as a flow map: from t to s, positions jump to a token drawn from p(data_i | x_t).

    "tau_leaping" (Campbell et al. 2022) holds these probabilities for the step and integrates the rates: a position
    jumps with probability (s − t)/(1 − t), and with `churn` so much more that a share s is the data's afterwards.
    "euler" takes rates times the step's length, at most 1: the same without churn, and with it right to first order.
    The last step, to s = 1, draws every position that is not settled.

    Args:
        net: `net(x, t, cond) -> (B, *shape, K)`, logits.
        path: of the tokens.
        generator: draws the jumps.
        guidance: w: log-probabilities (1 − w)·log p(·|∅) + w·log p(·|cond), normalized; 1 is none.
        churn: rate, in units of 1/t, at which positions become noise again, to be drawn once more; the marginals stay
            (detailed balance; Campbell et al. 2024, section 3.2). 0 is the chain with the fewest jumps.
        method: "tau_leaping" or "euler".
        temperature: divides the log-probabilities, > 0; below 1 likely tokens are drawn more often than they should.
    """

    def __init__(
        self,
        net: Net,
        path: TokenPath,
        generator: Generators = None,
        guidance: float = 1.0,
        churn: float = 0.0,
        method: str = "tau_leaping",
        temperature: float = 1.0,
    ) -> None:
        check_sampler(method, churn, temperature)
        self._net, self._path, self._generator = net, path, generator
        self._guidance, self._churn, self._method = guidance, churn, method
        self._temperature = temperature

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, cond: Any = None) -> Tensor:
        if t.ndim != 1:
            raise ValueError(explain(f"times of shape {tuple(t.shape)}", "one time per sample, (B,)"))
        drawn = self._draw((self._log_probs(x, t, cond) / self._temperature).log_softmax(-1))
        leaving, returning = self._rates(t, s)
        u = rand(x.shape, self._generator, dtype=torch.float32, device=x.device)
        last = expand(s == 1, x)
        settled = self._path.settled(x)
        jumps = ~settled & ((u < expand(leaving.float(), u)) | last)
        x_s = torch.where(jumps, drawn, x)
        if self._churn:
            again = self._path.noise(tuple(x.shape), self._generator, x.device)
            u = rand(x.shape, self._generator, dtype=torch.float32, device=x.device)
            x_s = torch.where(~jumps & (u < expand(returning.float(), u)) & ~last, again, x_s)
        return x_s

    def _rates(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probabilities (B,) that a position is drawn, and that a drawn one becomes noise again.

        Noise comes back at churn/t per position that is the data's, so that it has to go at a rate that is higher by
        churn/(1 − t).
        """
        h = s - t
        if self._method == "tau_leaping":
            back = (1 - (t / s) ** self._churn).minimum((1 - s) / t.clamp(min=1e-9))  # so that `out` is at most 1
            out = self._path.leaving(t, s, 1 - back)
        else:
            out, back = (1 + self._churn) * h / (1 - t), self._churn * h / t.clamp(min=1e-9)
        return out.clamp(0, 1), back.clamp(0, 1)

    def _log_probs(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        self.calls += 1 if self._guidance == 1 else 2
        given = _log_probs(self._net, x, t, cond, self._path.levels)
        if self._guidance == 1:
            return given
        free = _log_probs(self._net, x, t, self._net.null(cond), self._path.levels)
        guided = (1 - self._guidance) * free + self._guidance * given
        possible = torch.minimum(free, given) > _LOGIT_MIN / 2  # what either excludes stays excluded
        return torch.where(possible, guided, _LOGIT_MIN).log_softmax(-1)

    def _draw(self, log_probs: Tensor) -> Tensor:
        """Return tokens (B, *shape) drawn from log-probabilities (B, *shape, K)."""
        dtype = precise_dtype(log_probs.device)
        u = rand(log_probs.shape[:-1], self._generator, dtype=dtype, device=log_probs.device)
        below = log_probs.to(dtype).exp().cumsum(-1)
        return (below / below[..., -1:] <= u[..., None]).sum(-1).clamp(max=log_probs.shape[-1] - 1)


def _log_probs(net: Net, x: Tensor, t: Tensor, cond: Any, levels: int) -> Tensor:
    logits = net(x, as_input(t, x), cond).float()
    if logits.shape != (*x.shape, levels):
        raise ValueError(explain(f"logits of shape {tuple(logits.shape)}", f"{(*x.shape, levels)}"))
    return F.log_softmax(logits.clamp(min=_LOGIT_MIN), dim=-1)


@final
class TokenProcess:
    """A path of tokens, its objective and its sampler, as `GenerativeProcess` is for numbers.

    Args:
        path: "mask" or "uniform".
        levels: K, the number of different tokens.
        steps: of sampling, evenly spaced in time.
        solver: "tau_leaping" or "euler".
        churn: see `TokenSampler`.
        condition_dropout: see `TokenObjective`.

    Raises:
        ValueError: unknown names, or numbers out of range.
    """

    def __init__(
        self,
        path: str = "mask",
        levels: int = 8,
        steps: int = 50,
        solver: str = "tau_leaping",
        churn: float = 0.0,
        condition_dropout: float = 0.0,
    ) -> None:
        names.check("path of tokens", path, TOKEN_PATHS)
        self.tokens = TOKEN_PATHS[path](levels)
        self.objective = TokenObjective(self.tokens, condition_dropout)
        self._sampler: dict[str, Any] = {"solver": solver, "steps": steps, "grid": "uniform", "options": {}}
        self.configure(options={"churn": churn})

    @property
    def sampler(self) -> dict[str, Any]:
        """The sampler's settings: solver, steps, grid, options."""
        return dict(self._sampler)

    def configure(
        self,
        solver: str | None = None,
        steps: int | None = None,
        grid: str | None = None,
        options: Mapping[str, Any] | None = None,
        path: Any = None,
    ) -> None:
        """Change the sampler without retraining; None keeps what was set.

        Raises:
            ValueError: a solver of numbers, another grid or path, or an option that is not churn.
        """
        chosen = {"solver": solver, "steps": steps, "options": None if options is None else dict(options)}
        chosen = {**self._sampler, **{name: value for name, value in chosen.items() if value is not None}}
        given = f"solver={chosen['solver']}, grid={grid} for tokens"
        fits = grid in (None, "uniform") and path is None and chosen["solver"] in SAMPLERS
        require(fits, given, f"grid=uniform and a solver of {', '.join(SAMPLERS)}")
        for option in chosen["options"]:
            names.check("option of a sampler of tokens", option, ("churn",))
        check_sampler(chosen["solver"], **chosen["options"])
        whole = type(chosen["steps"]) is int and chosen["steps"] >= 1
        require(whole, f"steps={chosen['steps']!r}", "an integer >= 1")
        self.times = torch.arange(chosen["steps"] + 1, dtype=torch.float64) / chosen["steps"]
        self._sampler = chosen

    def loss(self, net: Net, batch: Mapping[str, Any], generator: Generators) -> Tensor:
        """Return the loss (B,) of a batch of tokens, see `TokenObjective`."""
        return self.objective(net, batch, generator)

    def draw(
        self,
        net: Net,
        shape: tuple[int, ...],
        cond: Any,
        generators: Generators,
        guidance: float = 1.0,
        temperature: float = 1.0,
        device: torch.device | str = "cpu",
        trajectory: bool = False,
    ) -> tuple[Tensor, int]:
        """Return samples of tokens (B, *rest) and the number of network calls; see `TokenSampler` and `sample`."""
        x = self.tokens.noise(tuple(shape), generators, device)
        options = self._sampler["options"]
        options = {**options, "method": self._sampler["solver"], "temperature": temperature}
        flow = TokenSampler(net, self.tokens, generators, guidance, **options)
        return sample(flow, x, self.times, cond, trajectory), flow.calls
