"""How chunks are executed: which noise each starts from, and what it keeps of the chunks before it.

A policy that plans again every few steps samples chunk after chunk, and where demonstrations part, independent
chunks may go to different sides. Each setting of `ExecutionConfig` makes successive chunks consistent, and all can be
combined:

    noise       "random": new noise for each chunk; "episode": the same for all chunks of an episode, so that a map
                from noise to chunks keeps its side; "zero": none, so that a deterministic sampler ignores the seed.
    temperature the standard deviation of that noise. Below 1, chunks keep to where demonstrations are densest:
                steadier actions, and less of what is rare.
    ensemble    temporal ensembling (Zhao et al. 2023, section 4.2): the action of a step is the weighted mean of what
                all chunks so far predict for it. A number m: weights proportional to exp(-m·i), where i = 0 is the
                oldest chunk. A list: the weights by age, newest first; where fewer chunks reach a step, these are
                normalized.
    warm_start  the time t0 in (0, 1) at which sampling starts for a chunk that follows another, from x = α(t0)·(the
                last chunk, shifted by T_a, its last action repeated) + σ(t0)·noise, as SDEdit does from an image
                (Meng et al. 2022). It then needs fewer network calls.
    inpaint     d >= 0: the first T_o - 1 actions, which lie in the past, are held at what was executed, and the next
                d at what the last chunk planned, as for actions that are under way while the chunk is computed (the
                hard mask of real-time chunking; Black et al. 2025).

Everything here is in normalized units. (A policy whose actions are relative to what it observed brings earlier chunks
to what it observes now.) Entry i of a chunk belongs to the control step i - (T_o - 1) from now, so the chunk sampled
T_a steps ago has at i + T_a what it planned for the same step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from diffpolicy.config import ExecutionConfig, PolicyConfig
from diffpolicy.generative.paths import Path
from diffpolicy.generative.shapes import randn
from diffpolicy.util.errors import require
from diffpolicy.util.names import check

NOISES = ("random", "episode", "zero")
_CLOSE = 1e-4  # in t: a time of the grid that is no further beyond the start of a warm start counts as the start


@final
@dataclass(frozen=True)
class SamplingContext:
    """What is known about chunks before they are sampled.

    Args:
        temperature: standard deviation of the noise that sampling starts from; 0 draws none.
        expected: (B, T_p, A), the chunks as the last ones planned them, and as executed where that is past.
        start: the time at which sampling starts, from `expected`; None starts from noise.
        held: (B, T_p, 1) boolean, where a chunk must agree with `expected`; None holds nothing.
        noise: (B, T_p, A) that sampling starts from; None draws it.
    """

    temperature: float = 1.0
    expected: Tensor | None = None
    start: float | None = None
    held: Tensor | None = None
    noise: Tensor | None = None

    def begin(
        self, shape: Sequence[int], times: Tensor, path: Path, generators: Sequence[torch.Generator], like: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the x at which sampling starts, on `path`, and the times of the grid from there on.

        Args:
            shape: (B, T_p, A) of x.
            times: of the whole grid.
            path: the path that is sampled on.
            generators: one per chunk, see `randn`.
            like: a tensor of the data type and on the device that x shall have.
        """
        kind = {"dtype": like.dtype, "device": like.device}
        if self.noise is not None:
            noise = self.noise
        else:
            noise = randn(shape, generators, **kind) if self.temperature else torch.zeros(tuple(shape), **kind)
            noise = noise if self.temperature == 1 else self.temperature * noise
        if self.start is None:
            return noise, times
        inner = times[:-1]
        left = [times.new_tensor([self.start]), inner[inner > self.start + _CLOSE], times[-1:]]
        # Coefficients are computed on the CPU: not every device has float64.
        t = torch.tensor([[[self.start]]], dtype=torch.float64)
        alpha, sigma = (of(t).to(like.dtype).to(like.device) for of in (path.alpha, path.sigma))
        return alpha * self.expected + sigma * noise, torch.cat(left)


FROM_NOISE = SamplingContext()


class Past(NamedTuple):
    """What the next chunk of an episode needs to know of the chunks before it.

    Attributes:
        chunks: (T_p, A) each, newest first.
        executed: (n, A) with n <= T_o - 1, the last executed actions, oldest first.
    """

    chunks: tuple[Tensor, ...]
    executed: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Past:
        """Return the past with changed actions."""
        return Past(tuple(change(chunk) for chunk in self.chunks), change(self.executed))


@final
class Chunker:
    """Carries out an `ExecutionConfig`, without state: what a chunk needs of those before it is passed in.

    Args:
        execution: how chunks are executed.
        supported: the settings that the model supports, see `ChunkModel.supported_execution`.
        horizons: T_o, T_p and T_a.

    Raises:
        ValueError: settings that mean nothing, that the model does not support, or that do not fit the horizons.
    """

    def __init__(self, execution: ExecutionConfig, supported: frozenset[str], horizons: PolicyConfig) -> None:
        self.execution = execution
        self._t_o, self._t_p, self._t_a = horizons.obs_horizon, horizons.horizon, horizons.action_horizon
        asked = horizons.temperature if execution.temperature is None else execution.temperature
        self.temperature = 0.0 if execution.noise == "zero" else asked
        overlapping = (self._t_p - self._t_o) // self._t_a + 1
        check_execution(execution)
        check_temperature("policy.temperature", horizons.temperature)
        _check_supported(execution, supported)
        _check_fit(execution, horizons, overlapping)
        ensemble = execution.ensemble
        if ensemble is None:
            weights = torch.zeros(1, dtype=torch.float64)
        elif isinstance(ensemble, Sequence):
            weights = torch.tensor(ensemble, dtype=torch.float64).log()
        else:  # i counts from the oldest chunk, age from the newest: exp(-m·i) is proportional to exp(m·age)
            weights = ensemble * torch.arange(overlapping, dtype=torch.float64)
        ages = torch.arange(len(weights))[:, None]
        entries = self._t_o - 1 + ages * self._t_a + torch.arange(self._t_a)
        # (ages, T_a): the logarithm of each weight, and the entry of the chunk that belongs to the step
        self._weights = torch.where(entries < self._t_p, weights[:, None], -math.inf)
        self._entries = entries.clamp(max=self._t_p - 1)
        self._looks_back = execution.warm_start is not None or execution.inpaint is not None

    def groups(self, pasts: Sequence[Past | None]) -> list[list[int]]:
        """Return the indices of the chunks that can share network calls.

        With a warm start, first chunks of episodes are sampled in full and apart from those that follow others.
        """
        everything = list(range(len(pasts)))
        if self.execution.warm_start is None:
            return [everything] if everything else []
        first = [i for i in everything if pasts[i] is None]
        later = [i for i in everything if pasts[i] is not None]
        return [group for group in (first, later) if group]

    def context(self, pasts: Sequence[Past | None]) -> SamplingContext:
        """Return what is known about the next chunks of episodes with these pasts, which are of one group."""
        noise, warm, d = self.temperature, self.execution.warm_start, self.execution.inpaint
        example = next((past.chunks[0] for past in pasts if past), None) if self._looks_back else None
        if example is None:
            return SamplingContext(noise)
        expected = torch.stack([self._expected(past) if past else torch.zeros_like(example) for past in pasts])
        if d is None:
            return SamplingContext(noise, expected, warm)
        step = torch.arange(self._t_p) - (self._t_o - 1)
        known = [(-len(past.executed), d) if past else (0, 0) for past in pasts]  # from where to where
        held = torch.stack([(step >= start) & (step < end) for start, end in known])
        return SamplingContext(noise, expected, warm, held[..., None].to(expected.device))

    def _expected(self, past: Past) -> Tensor:
        last, now = past.chunks[0], self._t_o - 1
        shifted = torch.cat([last[self._t_a :], last[-1:].expand(self._t_a, -1)])
        shifted[now - len(past.executed) : now] = past.executed
        return shifted

    def execute(self, chunks: Tensor, pasts: Sequence[Past | None]) -> tuple[Tensor, list[Past | None]]:
        """Return the actions to execute (B, T_a, A) of new chunks (B, T_p, A), and the pasts of the next chunks."""
        actions = chunks[:, self._t_o - 1 :][:, : self._t_a]
        if not self._looks_back and self.execution.ensemble is None:
            return actions, [None] * len(chunks)
        actions, memory = actions.clone(), []
        for i, past in enumerate(pasts):
            older, executed = past or Past((), chunks[i, :0])
            known = (chunks[i], *older)[: len(self._weights)]
            actions[i] = self._mean(known)
            executed = torch.cat([executed, actions[i]])
            memory.append(Past(known, executed[max(len(executed) - (self._t_o - 1), 0) :]))
        return actions, memory

    def _mean(self, chunks: Sequence[Tensor]) -> Tensor:
        """(T_a, A) of chunks (T_p, A), newest first."""
        like = chunks[0]
        weights = torch.softmax(self._weights[: len(chunks)], 0).to(like.dtype).to(like.device)
        of_steps = torch.stack([chunk[at] for chunk, at in zip(chunks, self._entries, strict=False)])
        return (weights[..., None] * of_steps).sum(0)


def check_execution(execution: ExecutionConfig) -> None:
    """Raise ValueError for settings that mean nothing to any policy."""
    check("noise", execution.noise, NOISES)
    check_temperature("temperature", execution.temperature)
    both = execution.noise == "zero" and execution.temperature is not None
    require(not both, f"temperature={execution.temperature} of noise=zero", cure="take one of the two")
    ensemble, warm, d = execution.ensemble, execution.warm_start, execution.inpaint
    if isinstance(ensemble, Sequence) and not isinstance(ensemble, str):
        usable = ensemble and all(_is_number(w) and w >= 0 for w in ensemble) and ensemble[0] > 0
        given = f"ensemble weights {list(ensemble)}"
        require(usable, given, "numbers >= 0, newest chunk first, and the newest one's above 0")
        total = math.fsum(ensemble)
        require(abs(total - 1) <= 1e-6, f"{given} sum to {total:g}", "1")
    else:
        fits = ensemble is None or _is_number(ensemble)
        require(fits, f"ensemble={ensemble!r}", "a number, a list of weights or None")
    fits = warm is None or (_is_number(warm) and 0 < warm < 1)
    require(fits, f"warm_start={warm!r}", "None or a time between 0 (noise) and 1 (data), both excluded")
    fits = d is None or (type(d) is int and d >= 0)
    require(fits, f"inpaint={d!r}", "None or a number of control steps >= 0")


def check_temperature(name: str, temperature: object) -> None:
    """Raise ValueError unless a temperature is None or a number above 0."""
    fits = temperature is None or (_is_number(temperature) and temperature > 0)
    require(fits, f"{name}={temperature!r}", "a number above 0", 'take execution.noise="zero" for none')


def _check_supported(execution: ExecutionConfig, supported: frozenset[str]) -> None:
    default = asdict(ExecutionConfig())
    changed = {name: value for name, value in asdict(execution).items() if value != default[name]}
    able = {*supported, "ensemble"}  # which needs nothing of the model
    able |= {"temperature"} if "noise" in able else set()
    refused = [f"{name}={value}" for name, value in changed.items() if name not in able]
    given = f"{', '.join(refused)} is not supported by the policy's method"
    require(not refused, given, f"settings of {', '.join(sorted(able))}")


def _check_fit(execution: ExecutionConfig, horizons: PolicyConfig, overlapping: int) -> None:
    t_o, t_p, t_a = horizons.obs_horizon, horizons.horizon, horizons.action_horizon
    where = f"with T_o={t_o}, T_p={t_p}, T_a={t_a}"
    ensemble, d = execution.ensemble, execution.inpaint
    given = f"ensemble={ensemble} averages nothing, since chunks do not overlap {where}"
    require(ensemble is None or overlapping > 1, given, cure=f"take T_a <= T_p - T_o = {t_p - t_o}")
    count = len(ensemble) if isinstance(ensemble, Sequence) else 0
    require(count <= overlapping, f"{count} ensemble weights, where {overlapping} chunks overlap {where}", "no more")
    reach = t_p - t_o + 1 - t_a
    given = f"inpaint={d} reaches beyond the last chunk {where}"
    require(d is None or d <= reach, given, f"at most T_p - T_o + 1 - T_a = {reach}")
    given = "inpaint=0 holds the T_o - 1 actions of the past, and T_o=1 has none"
    require(d != 0 or t_o > 1, given, cure="take inpaint=1 or more")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
