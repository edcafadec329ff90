"""How chunks are executed: when, from which noise each starts, and what it keeps of the chunks before it.

A policy that plans again every few steps samples chunk after chunk, and where demonstrations part, independent
chunks may go to different sides. Most settings of `ExecutionConfig` make successive chunks consistent; what cannot be
combined is refused:

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
    guide       softly instead: a chunk is drawn towards the last one, wherever that reaches, by guidance with weights
                that fall along the chunk (the soft mask there): 1 for what is executed or pending; then, where the
                last chunk reaches, "exponential", "linear", "ones" or "zeros"; see `prefix_weights` and
                `guidance.SoftInpaint`.
    candidates  N > 1: of N sampled chunks the one that agrees best with the last (the backward coherence of
                bidirectional decoding; Liu et al. 2024), by the distance over their overlap, with weights 0.5^i.
    delay       d: a chunk that is asked for at step k is executed from step k + d on, and the rest of the last one
                until then. What is still to be executed is *pending* when a chunk is asked for. At the start of an
                episode the robot holds where it is, if it is known which numbers of the observation follow the action
                (`TaskSpec.follows`); else it waits for the first chunk.
    roll_forward the policy plans as of the step at which what is pending has been executed: the robot's own numbers
                are advanced through it (see `motion`), the others stay as they are.
    action_noise an error with which actions are carried out, for judging how a policy recovers.
    costs       what sampling should do about a chunk's actions, in their units, see `costs`.

All else is in normalized units; earlier chunks of relative actions are brought to what is observed now. Entry i of a
chunk belongs to the control step i - (T_o - 1) from now: that sampled T_a steps ago planned it at i + T_a.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from diffpolicy.config import ExecutionConfig, PolicyConfig
from diffpolicy.generative.distances import apart
from diffpolicy.generative.guidance import Guided, Inpaint, Prefix, SoftInpaint
from diffpolicy.generative.paths import Path
from diffpolicy.generative.predictions import Field
from diffpolicy.generative.shapes import randn
from diffpolicy.policies.execution import (
    check_execution,
    check_fit,
    check_supported,
    check_temperature,
    longest_delay,
    looking_back,
    prefix_weights,
)
from diffpolicy.util.seeds import generator

_CLOSE = 1e-4  # in t: a time of the grid that is no further beyond the start of a warm start counts as the start


class Guide(NamedTuple):
    """How chunks are drawn towards what is expected, see `guidance.SoftInpaint`.

    Attributes:
        weights: (B, T_p, 1).
        bound: the most that it may weigh.
        jacobian: whether the network is differentiated.
    """

    weights: Tensor
    bound: float
    jacobian: bool


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
        guide: draws the chunks towards `expected`; None does not.
        change: changes every estimate of the chunks, see `Changed`; None leaves them.
        without: of what is told, scales and the conditions without it, see `Guided`.
    """

    temperature: float = 1.0
    expected: Tensor | None = None
    start: float | None = None
    held: Tensor | None = None
    noise: Tensor | None = None
    guide: Guide | None = None
    change: Callable[[Tensor, Tensor], Tensor] | None = None
    without: Sequence[tuple[float, Any]] = ()

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
            return path.start_scale * noise, times
        inner = times[:-1]
        left = [times.new_tensor([self.start]), inner[inner > self.start + _CLOSE], times[-1:]]
        # Coefficients are computed on the CPU: not every device has float64.
        t = torch.tensor([[[self.start]]], dtype=torch.float64)
        alpha, sigma = (of(t).to(like.dtype).to(like.device) for of in (path.alpha, path.sigma))
        return alpha * self.expected + sigma * noise, torch.cat(left)

    @property
    def binds(self) -> bool:
        """Whether anything is asked of the chunks, so that their field is another one."""
        return bool(self.without) or any(what is not None for what in (self.held, self.guide, self.change))

    def bound(self, field: Field, taught: bool = False) -> Field:
        """Return the field of a process with what is known about its chunks.

        Args:
            field: of the process.
            taught: whether its network was taught what known actions are, see `PolicyConfig.prefix`.
        """
        field = Guided(field, self.without) if self.without else field
        if self.held is not None and taught:
            return Prefix(field, self.expected, self.held[..., 0])
        if self.guide is not None:
            field = SoftInpaint(field, self.expected, *self.guide)
        return field if self.held is None else Inpaint(field, self.expected, self.held)


FROM_NOISE = SamplingContext()


class Past(NamedTuple):
    """What the next chunk of an episode needs to know of the chunks before it.

    Attributes:
        chunks: (T_p, A) each, newest first.
        executed: (n, A) with n <= T_o - 1, the last executed actions, oldest first, if nothing is delayed.
        ages: how many control steps ago each chunk was asked for, when the next one is.
    """

    chunks: tuple[Tensor, ...]
    executed: Tensor
    ages: tuple[int, ...] = ()

    def map(self, change: Callable[[Tensor], Tensor]) -> Past:
        """Return the past with changed actions."""
        return self._replace(chunks=tuple(change(chunk) for chunk in self.chunks), executed=change(self.executed))


class Decided(NamedTuple):
    """What is decided about an episode's actions when a chunk is asked for.

    Attributes:
        executed: (n, A) with n <= T_o - 1, the last executed actions, oldest first.
        pending: (m, A), those of the next m steps.
    """

    executed: Any
    pending: Any

    def map(self, change: Callable[[Any], Any]) -> Decided:
        """Return the same with changed actions."""
        return Decided(*(change(actions) if len(actions) else actions for actions in self))


def carried(
    pasts: Sequence[Past | None], obs: Tensor, change: Callable[[Tensor, Tensor], Tensor]
) -> list[Past | None]:
    """Return pasts whose actions are relative to the observations (B, T_o, D) of a plan, in units or back."""

    def of(past: Past, seen: Tensor) -> Past:
        return past.map(lambda actions: change(actions[None], seen[None])[0])

    return [None if past is None else of(past, seen) for past, seen in zip(pasts, obs, strict=True)]


def decided_in(
    decided: Sequence[Decided | None] | None, obs: Tensor, normalized: Callable[[Tensor, Tensor], Tensor]
) -> list[Decided | None]:
    """Return what is decided as a model draws it, of episodes that observed `obs` (B, T_o, D)."""

    def told(one: Decided | None, seen: Tensor) -> Decided | None:
        if one is None:
            return None
        given = Decided(*(torch.as_tensor(part, dtype=torch.float32, device=seen.device) for part in one))
        return given.map(lambda actions: normalized(actions[None], seen[None])[0])

    return [told(*both) for both in zip([None] * len(obs) if decided is None else decided, obs, strict=True)]


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
        check_execution(execution)
        self.execution = execution
        self._t_o, self._t_p, self._t_a = horizons.obs_horizon, horizons.horizon, horizons.action_horizon
        self._reach = self._t_a + longest_delay(execution.delay)  # actions of a chunk that may be executed
        asked = horizons.temperature if execution.temperature is None else execution.temperature
        self.temperature = 0.0 if execution.noise == "zero" else asked
        overlapping = (self._t_p - self._t_o) // self._t_a + 1
        check_temperature("policy.temperature", horizons.temperature)
        check_supported(execution, supported)
        check_fit(execution, horizons, overlapping)
        ensemble = execution.ensemble
        if ensemble is None:
            weights = torch.zeros(1, dtype=torch.float64)
        elif isinstance(ensemble, Sequence):
            weights = torch.tensor(ensemble, dtype=torch.float64).log()
        else:  # i counts from the oldest chunk, age from the newest: exp(-m·i) is proportional to exp(m·age)
            weights = ensemble * torch.arange(overlapping, dtype=torch.float64)
        self._weights = weights  # the logarithm of each, by age
        self._looks_back = looking_back(execution)

    def groups(self, pasts: Sequence[Past | None]) -> list[list[int]]:
        """Return the indices of the chunks that can share network calls.

        With a warm start, first chunks of episodes are sampled in full and apart from those that follow others.
        """
        everything = list(range(len(pasts)))
        if self.execution.warm_start is None:
            return [everything] if everything else []
        first = [i for i in everything if not self._reaches(pasts[i])]
        later = [i for i in everything if self._reaches(pasts[i])]
        return [group for group in (first, later) if group]

    def context(
        self, pasts: Sequence[Past | None], decided: Sequence[Decided | None] | None = None
    ) -> SamplingContext:
        """Return what is known about the next chunks of episodes with these pasts, which are of one group."""
        noise, warm, d = self.temperature, self.execution.warm_start, self.execution.inpaint
        pasts = [past if self._reaches(past) else None for past in pasts]
        decided = [None] * len(pasts) if decided is None else decided
        known = [self._decided(*both) for both in zip(pasts, decided, strict=True)]
        example = next((past.chunks[0] for past in pasts if past), None)
        example = next((one.pending for one in known if len(one.pending)), None) if example is None else example
        if example is None or set(self._looks_back) <= {"ensemble"}:
            return SamplingContext(noise)
        expected = torch.stack([self._expected(*both, example) for both in zip(pasts, known, strict=True)])
        warm = warm if any(pasts) else None
        step, found = torch.arange(self._t_p) - (self._t_o - 1), SamplingContext(noise, expected, warm)
        if d is not None:
            until = [
                min(d, max(self._reaches(past), len(one.pending))) for past, one in zip(pasts, known, strict=True)
            ]
            spans = [(-len(one.executed), end) for one, end in zip(known, until, strict=True)]
            held = torch.stack([(step >= start) & (step < end) for start, end in spans])
            found = replace(found, held=held[..., None].to(expected.device))
        if self.execution.guide is not None:
            weights = torch.stack([self._weights_of(*both) for both in zip(pasts, known, strict=True)])
            how = (self.execution.guide_bound, self.execution.guide_jacobian)
            found = replace(found, guide=Guide(weights[..., None].to(expected.device), *how))
        return found

    def _decided(self, past: Past | None, decided: Decided | None) -> Decided:
        if decided is not None:
            return decided
        none = torch.empty(0)
        return Decided(past.executed if past else none, none)

    def _expected(self, past: Past | None, decided: Decided, like: Tensor) -> Tensor:
        now, shifted = self._t_o - 1, like.new_zeros(self._t_p, like.shape[-1])
        if past:
            last, age = past.chunks[0], min(self._ages(past)[0], self._t_p)
            shifted = torch.cat([last[age:], last[-1:].expand(age, -1)])
        if count := len(decided.executed):
            shifted[now - count : now] = decided.executed
        if count := len(decided.pending):
            shifted[now : now + count] = decided.pending
        return shifted

    def _weights_of(self, past: Past | None, decided: Decided) -> Tensor:
        """(T_p,)."""
        pending, now = len(decided.pending), self._t_o - 1
        reach = self._reaches(past)
        weights = torch.zeros(self._t_p)
        weights[now - len(decided.executed) : now] = 1
        weights[now:] = prefix_weights(self.execution.guide or "zeros", pending, max(reach, pending), self._t_p - now)
        return weights

    def _reaches(self, past: Past | None) -> int:
        """For how many steps from now on the last chunk has actions."""
        return max(self._t_p - self._t_o + 1 - self._ages(past)[0], 0) if past else 0

    def _ages(self, past: Past) -> tuple[int, ...]:
        return past.ages or tuple((i + 1) * self._t_a for i in range(len(past.chunks)))

    def draws(self, own: Sequence[torch.Generator], count: int) -> list[torch.Generator]:
        """Return the generators of `count` samples: of each episode's candidates, and of what pads a block.

        The first candidate is what would be drawn if there were no others.
        """
        found = [
            one if k == 0 else generator("candidates", one.initial_seed(), k)
            for one in own
            for k in range(self.execution.candidates)
        ]
        return found + [torch.Generator().manual_seed(0) for _ in range(count - len(found))]

    def chosen(
        self, drawn: Sequence[Tensor], pasts: Sequence[Past | None], decided: Sequence[Decided | None]
    ) -> Tensor:
        """Return one chunk for each episode (B, T_p, A), of all its candidates.

        Args:
            drawn: the candidates, and those of a weaker policy, if there is one.
            pasts: of the episodes.
            decided: of the episodes.
        """
        each, count = self.execution.candidates, len(pasts)
        if each == 1:
            return drawn[0][:count]
        groups, *weaker = (one[: count * each].unflatten(0, (count, each)) for one in drawn)
        loss = torch.stack([self._strays(*one) for one in zip(groups, pasts, decided, strict=True)])
        for other in weaker:
            ours, theirs = (one[:, :, self._t_o - 1 :] for one in (groups, other))
            loss = loss + apart(ours, ours, itself=True) - apart(ours, theirs)
        return groups[torch.arange(count, device=loss.device), loss.argmin(1)]

    def _strays(self, candidates: Tensor, past: Past | None, decided: Decided | None) -> Tensor:
        """Return by how much each candidate (N, T_p, A) strays from what is expected, (N,); 0 if nothing is."""
        known = self._decided(past, decided)
        reach = max(self._reaches(past), len(known.pending))
        if not reach:
            return candidates.new_zeros(len(candidates))
        now, expected = self._t_o - 1, self._expected(past, known, candidates[0])
        away = (candidates - expected)[:, now : now + reach].square().sum(-1).sqrt()
        weights = 0.5 ** torch.arange(reach, device=away.device)
        return (away * weights).sum(1) / weights.sum()

    def execute(self, chunks: Tensor, pasts: Sequence[Past | None]) -> tuple[Tensor, list[Past | None]]:
        """Return the actions from now on of new chunks (B, T_p, A), and the pasts of the next chunks.

        They are T_a, and as many more as they may be delayed.
        """
        actions = chunks[:, self._t_o - 1 :][:, : self._reach]
        if not self._looks_back:
            return actions, [None] * len(chunks)
        actions, memory = actions.clone(), []
        for i, past in enumerate(pasts):
            older, executed = (past.chunks, past.executed) if past else ((), chunks[i, :0])
            ages = (0, *(self._ages(past) if past else ()))[: len(self._weights)]
            known = (chunks[i], *older)[: len(self._weights)]
            actions[i] = self._mean(known, ages)
            executed = torch.cat([executed, actions[i, : self._t_a]])
            executed = executed[max(len(executed) - (self._t_o - 1), 0) :]
            memory.append(Past(known, executed, tuple(age + self._t_a for age in ages)))
        return actions, memory

    def _mean(self, chunks: Sequence[Tensor], ages: Sequence[int]) -> Tensor:
        """(reach, A) of chunks (T_p, A), newest first, which were asked for `ages` steps ago."""
        like, steps = chunks[0], torch.arange(self._reach)
        entries = self._t_o - 1 + torch.tensor(ages)[:, None] + steps  # of each chunk, for each step
        logs = torch.where(entries < self._t_p, self._weights[: len(chunks), None], -math.inf)
        weights = torch.softmax(logs, 0).to(like.dtype).to(like.device)
        at = entries.clamp(max=self._t_p - 1)
        of_steps = torch.stack([chunk[entry] for chunk, entry in zip(chunks, at, strict=True)])
        return (weights[..., None] * of_steps).sum(0)
