"""How chunks are executed: which noise each is drawn from, and what it keeps of the chunks before it.

A policy that plans again every few steps draws chunk after chunk, and where demonstrations part, independent chunks
take now one way and now the other. Each setting of `Execution` binds a chunk to its predecessors, and all can be
combined. Everything here is in normalised units. Entry i of a chunk is of the control step i − (T_o − 1) from now
on, so the chunk drawn T_a steps ago has at i + T_a what it planned for the same step.

`Execution` says what is asked for, an `Executor` remembers the episodes' chunks, and a `Plan` tells an actor what is
known of a chunk before it is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, final

import torch
from torch import Tensor

from diffpolicy.generative.paths import Path
from diffpolicy.generative.shapes import randn
from diffpolicy.util import names

NOISES = ("random", "episode", "zero")
_CLOSE = 1e-4  # in t: a grid's time no further beyond the start of a warm start is taken for it


@final
@dataclass(frozen=True)
class Execution:
    """How chunks are executed, beside the action horizon T_a; the defaults execute each chunk as it was drawn.

    Args:
        noise: what sampling starts from. "random": new noise for each chunk; "episode": the same for all chunks of an
            episode, so that what maps noise to chunks keeps to its way; "zero": none, so that with a solver that
            draws no noise itself a chunk does not depend on the seed.
        ensemble: temporal ensembling (Zhao et al. 2023, section 4.2): a step's action is the weighted mean of what
            all chunks so far predict for it. A number m: weights proportional to exp(−m·i), where i = 0 is the oldest
            chunk. A list: the weights by age, newest first, no longer than as many chunks as can overlap; where fewer
            do, those there are share the whole weight. None executes the newest chunk.
        warm_start: the time t0 in (0, 1) at which the sampling of a chunk that follows another one begins, at
            x = α(t0)·(the last chunk, shifted by T_a, its last action repeated) + σ(t0)·noise, as SDEdit begins from
            an image (Meng et al. 2022); then the solver's grid from there on, which takes fewer network calls.
        inpaint: d >= 0: while a chunk is sampled, what it says of the T_o − 1 steps gone by is held at what was
            executed, and of the next d steps at what the last chunk planned, as for actions that are under way while
            the chunk is computed (the hard mask of real-time chunking; Black et al. 2025).

    Raises:
        ValueError: a value outside these.
    """

    noise: str = "random"
    ensemble: float | Sequence[float] | None = None
    warm_start: float | None = None
    inpaint: int | None = None

    def __post_init__(self) -> None:
        names.check("noise", self.noise, NOISES)
        weights = self.ensemble if isinstance(self.ensemble, (list, tuple)) else None
        if weights is None and not (self.ensemble is None or _is_number(self.ensemble)):
            raise ValueError(f"ensemble must be a number, a list of weights or None, not {self.ensemble!r}")
        if weights is not None:
            if not (weights and all(_is_number(w) and w >= 0 for w in weights) and weights[0] > 0):
                raise ValueError(
                    f"ensemble weights must be numbers >= 0, newest chunk first, and the newest one's above 0, since "
                    f"an episode begins with it alone; given {list(weights)}"
                )
            if abs((total := math.fsum(weights)) - 1) > 1e-6:
                raise ValueError(f"ensemble weights must sum to 1; {list(weights)} sum to {total:g}")
        if self.warm_start is not None and not (_is_number(self.warm_start) and 0 < self.warm_start < 1):
            raise ValueError(
                f"warm_start must be a time between 0 (noise) and 1 (data), without both, or None; "
                f"given {self.warm_start!r}"
            )
        if self.inpaint is not None and (type(self.inpaint) is not int or self.inpaint < 0):
            raise ValueError(f"inpaint must be a number of control steps >= 0 or None, not {self.inpaint!r}")


@final
@dataclass(frozen=True)
class Plan:
    """What is known of chunks before they are drawn.

    Args:
        silent: whether sampling starts from zero instead of noise.
        expected: (B, T_p, A), the chunks as their predecessors planned them, and as executed where that is past.
        start: the time at which sampling starts, from `expected`; None starts from noise.
        held: (B, T_p, 1) boolean, where a chunk must agree with `expected`; None holds nothing.
    """

    silent: bool = False
    expected: Tensor | None = None
    start: float | None = None
    held: Tensor | None = None

    def begin(
        self,
        shape: Sequence[int],
        times: Tensor,
        path: Path,
        generators: Sequence[torch.Generator],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> tuple[Tensor, Tensor]:
        """Where an actor's sampling starts: x of `shape` (B, T_p, A), and what is left of the `times` of its grid.

        One generator per row is drawn from, see `randn`. x is on `path` at the first of the times returned.
        """
        if self.silent:
            noise = torch.zeros(tuple(shape), dtype=dtype, device=device)
        else:
            noise = randn(shape, generators, dtype=dtype, device=device)
        if self.start is None:
            return noise, times
        inner = times[:-1]
        left = [times.new_tensor([self.start]), inner[inner > self.start + _CLOSE], times[-1:]]
        t = torch.full((len(noise),), self.start, dtype=torch.float64, device=device)
        return path.interpolate(self.expected, noise, t), torch.cat(left)


FROM_NOISE = Plan()


class _Past(NamedTuple):
    chunks: list[Tensor]  # (T_p, A) each, newest first
    executed: Tensor  # (n, A), n <= T_o - 1: what was executed last, oldest first


@final
class Executor:
    """Carries out an `Execution`: remembers the chunks of each slot's episode as far as it asks for them.

    Args:
        execution: what is asked for.
        takes: which of its settings the actor can follow, see `Actor.takes`.
        obs_horizon, horizon, action_horizon: T_o, T_p, T_a.

    Raises:
        ValueError: settings that the actor cannot follow or that do not fit the horizons.
    """

    def __init__(
        self, execution: Execution, takes: frozenset[str], obs_horizon: int, horizon: int, action_horizon: int
    ) -> None:
        self.execution = execution
        self._t_o, self._t_p, self._t_a = obs_horizon, horizon, action_horizon
        overlapping = (horizon - obs_horizon) // action_horizon + 1
        self._check(takes, overlapping)
        ensemble = execution.ensemble
        if ensemble is None:
            weights = torch.zeros(1, dtype=torch.float64)
        elif isinstance(ensemble, (list, tuple)):
            weights = torch.tensor(ensemble, dtype=torch.float64).log()
        else:  # i counts from the oldest chunk and age from the newest: exp(−m·i) is proportional to exp(m·age)
            weights = ensemble * torch.arange(overlapping, dtype=torch.float64)
        ages = torch.arange(len(weights))[:, None]
        entries = obs_horizon - 1 + ages * action_horizon + torch.arange(action_horizon)
        # (ages, T_a): the logarithm of each weight, and the entry of the chunk that is of the step
        self._weights = torch.where(entries < horizon, weights[:, None], -math.inf)
        self._entries = entries.clamp(max=horizon - 1)
        self._looks_back = execution.warm_start is not None or execution.inpaint is not None
        self._past: dict[int, _Past] = {}

    def _check(self, takes: frozenset[str], overlapping: int) -> None:
        asked = self.execution
        changed = {f.name: v for f in fields(asked) if (v := getattr(asked, f.name)) != f.default}
        if refused := [f"{name}={v}" for name, v in changed.items() if name != "ensemble" and name not in takes]:
            able = ", ".join(sorted({*takes, "ensemble"}))
            raise ValueError(f"{', '.join(refused)}: this policy's actor cannot follow that; it takes {able}")
        t_o, t_p, t_a = self._t_o, self._t_p, self._t_a
        where = f"T_o={t_o}, T_p={t_p}, T_a={t_a}"
        if asked.ensemble is not None and overlapping == 1:
            raise ValueError(
                f"ensemble={asked.ensemble} averages nothing, since chunks do not overlap with {where}: take an "
                f"action horizon T_a <= T_p - T_o = {t_p - t_o}"
            )
        if isinstance(asked.ensemble, (list, tuple)) and len(asked.ensemble) > overlapping:
            raise ValueError(
                f"ensemble has {len(asked.ensemble)} weights, and with {where} no more than {overlapping} chunks "
                f"overlap: give up to {overlapping}"
            )
        if asked.inpaint is not None and t_a + asked.inpaint > (reach := t_p - t_o + 1):
            raise ValueError(
                f"inpaint={asked.inpaint} reaches beyond the last chunk: T_a + inpaint <= T_p - T_o + 1 is needed, "
                f"and with {where} inpaint can be up to {reach - t_a}"
            )
        if asked.inpaint == 0 and t_o == 1:
            raise ValueError("inpaint=0 holds the T_o - 1 steps gone by, of which T_o=1 leaves none: take 1 or more")

    def forget(self, slot: int) -> None:
        """A new episode begins there."""
        self._past.pop(slot, None)

    def parts(self, slots: Sequence[int]) -> list[list[int]]:
        """The rows of a call that can share network calls.

        With a warm start the first chunks of episodes are sampled in full, apart from those that follow others.
        """
        rows = list(range(len(slots)))
        if self.execution.warm_start is None:
            return [rows] if rows else []
        first = [row for row in rows if slots[row] not in self._past]
        later = [row for row in rows if slots[row] in self._past]
        return [part for part in (first, later) if part]

    def plan(self, slots: Sequence[int]) -> Plan:
        """What is known of the next chunks of these slots, which are of one part."""
        silent, warm, d = self.execution.noise == "zero", self.execution.warm_start, self.execution.inpaint
        pasts = [self._past.get(slot) for slot in slots] if self._looks_back else []
        example = next((past.chunks[0] for past in pasts if past), None)
        if example is None:
            return Plan(silent)
        expected = torch.stack([self._expected(past) if past else torch.zeros_like(example) for past in pasts])
        if d is None:
            return Plan(silent, expected, warm)
        step = torch.arange(self._t_p) - (self._t_o - 1)
        known = [(-len(past.executed), d) if past else (0, 0) for past in pasts]  # from where to where
        held = torch.stack([(step >= begin) & (step < end) for begin, end in known])
        return Plan(silent, expected, warm, held[..., None].to(expected.device))

    def _expected(self, past: _Past) -> Tensor:
        last, now = past.chunks[0], self._t_o - 1
        shifted = torch.cat([last[self._t_a :], last[-1:].expand(self._t_a, -1)])
        shifted[now - len(past.executed) : now] = past.executed
        return shifted

    def execute(self, slots: Sequence[int], chunks: Tensor) -> Tensor:
        """New chunks (B, T_p, A) -> the actions to execute (B, T_a, A); remembers what the next ones need."""
        actions = chunks[:, self._t_o - 1 :][:, : self._t_a]
        if not self._looks_back and self.execution.ensemble is None:
            return actions
        actions = actions.clone()
        for row, slot in enumerate(slots):
            older, executed = self._past.get(slot, ([], chunks[row, :0]))
            known = [chunks[row], *older][: len(self._weights)]
            actions[row] = self._mean(known)
            executed = torch.cat([executed, actions[row]])
            self._past[slot] = _Past(known, executed[max(len(executed) - (self._t_o - 1), 0) :])
        return actions

    def _mean(self, chunks: Sequence[Tensor]) -> Tensor:
        """(T_a, A) of chunks (T_p, A), newest first."""
        weights = torch.softmax(self._weights[: len(chunks)], 0).to(chunks[0])  # over those that reach the step
        of_steps = torch.stack([chunk[at] for chunk, at in zip(chunks, self._entries, strict=False)])
        return (weights[..., None] * of_steps).sum(0)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
