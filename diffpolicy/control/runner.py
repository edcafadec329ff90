"""A control loop at a fixed rate, whose chunks are computed in a thread beside it."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, final

import numpy as np

from .guard import Guard
from .planning import Ask, Observation, Plan, Planner

_LOG = logging.getLogger(__name__)
_RECENT = 10  # delays, the largest of which the next chunk is planned with
_SWITCH = 5e-4  # seconds after which another thread may run: the usual 5 ms would be the loop's jitter


class Robot(Protocol):
    """What a runner drives."""

    def observe(self) -> Observation:
        """Return what is observed now."""

    def act(self, action: np.ndarray) -> None:
        """Carry out an action (A,) from now on; returns at once."""


@dataclass
class Report:
    """What happened in a run.

    Args:
        rate: control steps per second, as asked for.
        starts: when each step began, in seconds since the first one.
        seconds: how long each step took, waiting apart.
        arrivals: steps at which a chunk came.
        delays: of each of them, the actions that were consumed while it was computed.
        asked: steps at which a chunk was asked for.
        planned: of each request, the delay that it was planned for.
        borders: steps at which a new chunk took effect.
        late: chunks that came when none of their actions was left.
        held: steps without an action of a chunk.
        changed: steps whose action the guard changed.
        failures: chunks that could not be computed, by what was said.
        over_budget: steps that took longer than a period.
        stops: how often the watchdog stopped the robot.
        actions: (L, A), as they were carried out.
    """

    rate: float
    starts: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    arrivals: list[int] = field(default_factory=list)
    delays: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    planned: list[int] = field(default_factory=list)
    borders: list[int] = field(default_factory=list)
    late: int = 0
    held: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    over_budget: int = 0
    stops: int = 0
    actions: list[np.ndarray] = field(default_factory=list)

    @property
    def holds(self) -> int:
        """Steps without an action of a chunk."""
        return len(self.held)

    def summary(self) -> dict[str, Any]:
        """Return the figures as plain data: periods in milliseconds, and what was counted."""
        periods = 1e3 * np.diff(self.starts)
        apart = np.abs(periods - 1e3 / self.rate)
        at = {f"p{q}": float(np.percentile(apart, q)) for q in (50, 95, 99)} if len(apart) else {}
        return {
            "steps": len(self.starts),
            "rate": float(1e3 / periods.mean()) if len(periods) else None,
            "jitter_ms": at,
            "delay": {
                "mean": float(np.mean(self.delays)) if self.delays else None,
                "largest": max(self.delays, default=None),
            },
            "chunks": len(self.delays),
            "late": self.late,
            "holds": self.holds,
            "over_budget": self.over_budget,
            "stops": self.stops,
            "changed": len(self.changed),
            "failures": dict(self.failures),
        }


@final
class RealTimeRunner:
    """Steps a robot at a fixed rate from the calling thread, and never waits for a chunk.

    A chunk is asked for T_a steps after the last one was, and takes effect as soon as it is there, from the action on
    that belongs to that step. Its delay is counted in actions that were consumed meanwhile, not in seconds; the next
    chunk is planned with the largest of the last ten.

    Args:
        robot: what is driven.
        planner: computes chunks.
        rate: control steps per second.
        guard: what every action passes; None lets all pass.
        hold: obs -> the action (A,) with which the robot stays where it is, for a step without any; None takes the
            numbers of the observation that follow the action, where the policy says which, and else repeats the last
            action.
        executor: computes chunks; None starts a thread.
        clock: has `monotonic()` and `sleep(seconds)`.

    Raises:
        ValueError: a rate that is none, or a guard where nothing says how the robot holds.
    """

    def __init__(
        self,
        robot: Robot,
        planner: Planner,
        rate: float,
        guard: Guard | None = None,
        hold: Callable[[Observation], np.ndarray] | None = None,
        executor: Executor | None = None,
        clock: Any = time,
    ) -> None:
        if not (np.isfinite(rate) and rate > 0):
            raise ValueError(f"rate={rate}; expected control steps per second, above 0")
        if guard is not None and hold is None and not planner.metadata.follows:
            raise ValueError("a guard, and nothing says how the robot holds; give hold=lambda obs: action")
        self.robot, self.planner, self.rate, self.guard, self.hold = robot, planner, rate, guard, hold
        self._executor, self._clock = executor, clock

    def run(self, steps: int, seed: int = 0, over: Callable[[], bool] = lambda: False) -> Report:
        """Drive the robot for so many steps, or until `over()`, and return what happened.

        Args:
            steps: at most.
            seed: of the episode, which keys the noise of its chunks.
            over: asked before every step.

        Raises:
            Exception: what the planner raises before its first chunk, such as for an observation that is another
                policy's. `ConnectionError`, and whatever comes later, is counted while the robot goes on.
        """
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "planner")  # kept, so that no two plans ever overlap
        before = sys.getswitchinterval()
        sys.setswitchinterval(min(before, _SWITCH))
        episode = _Episode(self, seed, self._executor)
        try:
            for _ in range(steps):
                if over():
                    break
                episode.step()
        finally:
            sys.setswitchinterval(before)
        return episode.report


class _Episode:
    """A run under way."""

    def __init__(self, runner: RealTimeRunner, seed: int, executor: Executor) -> None:
        self.of, self.seed, self.executor = runner, seed, executor
        self.report, meta = Report(runner.rate), runner.planner.metadata
        self.meta, self.period = meta, 1 / runner.rate
        self.history: deque[Observation] = deque(maxlen=meta.obs_horizon)
        self.executed: deque[np.ndarray] = deque(maxlen=max(meta.obs_horizon - 1, 1))
        self.queue: deque[tuple[int, np.ndarray]] = deque()  # with the steps since their chunk was asked for
        self.future: Future[Plan] | None = None
        self.last: np.ndarray | None = None
        self.action: np.ndarray | None = None
        self.asked = self.last_asked = -meta.action_horizon
        self.chunks = self.number = 0
        self.began = self.tick = runner._clock.monotonic()
        self.waiting_since: float | None = None  # for the chunk that is due
        self.stopped = False

    def step(self) -> None:
        clock, report = self.of._clock, self.report
        while (left := self.tick - clock.monotonic()) > 0:
            clock.sleep(left)
        now = clock.monotonic()
        report.starts.append(now - self.began)
        obs = _copied(self.of.robot.observe())  # a driver may fill the same buffer again
        if not self.number and self.of.guard is not None:
            self.of.guard.reset(self._holding(obs))
        self.history.extend([obs] * (1 if self.history else self.meta.obs_horizon))
        self._receive()
        self._ask(now)
        self._watch(now)
        self.of.robot.act(self._next(obs))
        self.number += 1
        seconds = clock.monotonic() - now
        report.seconds.append(seconds)
        report.over_budget += seconds > self.period
        # A step that took too long is not made up for: the next one follows at once, and then the rate holds again.
        self.tick = max(self.tick + self.period, clock.monotonic())

    def _receive(self) -> None:
        """Take over a chunk that is there."""
        if self.future is None or not self.future.done():
            return
        future, self.future = self.future, None
        try:
            plan = future.result()
        except Exception as error:
            if not self.chunks and not isinstance(error, ConnectionError):
                raise  # a wrong robot, at its first message
            self._note("no chunk", error)
            self.asked = self.number - self.meta.action_horizon  # ask again now
            return
        consumed = self.number - self.asked
        actions = np.asarray(plan.trajectory)[self.meta.obs_horizon - 1 + consumed :]
        self.report.arrivals.append(self.number)
        self.report.delays.append(consumed)
        self.last, self.last_asked, self.chunks = plan.trajectory, self.asked, self.chunks + 1
        self.waiting_since, self.stopped = None, False
        if len(actions):
            self.queue = deque(enumerate(actions, consumed))
            self.report.borders.append(self.number)
        else:
            self.report.late += 1

    def _ask(self, now: float) -> None:
        if self.future is not None or self.number - self.asked < self.meta.action_horizon:
            return
        self.waiting_since = now if self.waiting_since is None else self.waiting_since
        planned = max(self.report.delays[-_RECENT:], default=0)
        self.report.asked.append(self.number)
        self.report.planned.append(planned)
        count, none = self.meta.obs_horizon - 1, np.empty((0, self.meta.action_dim), np.float32)
        executed, pending = list(self.executed)[-count:] if count else [], [one for _, one in self.queue][:planned]
        ask = Ask(
            list(self.history),
            (self.seed, self.chunks),
            np.stack(executed) if executed else none,
            np.stack(pending) if pending else none,
            self.last,
            self.number - self.last_asked,
        )
        self.asked, self.future = self.number, self.executor.submit(self.of.planner.plan, ask)

    def _watch(self, now: float) -> None:
        guard = self.of.guard
        waited = 0.0 if self.waiting_since is None else now - self.waiting_since
        if guard is not None and not self.stopped and self.chunks and waited > guard.watchdog:
            self.stopped = True
            self.report.stops += 1
            self.queue.clear()

    def _next(self, obs: Observation) -> np.ndarray:
        if self.queue:
            step, planned = self.queue.popleft()
            action = self._corrected(obs, planned, step)
        else:
            self.report.held.append(self.number)
            action = self._held(obs)
        action = np.asarray(action, np.float32) if self.of.guard is None else self._guarded(self.of.guard, action)
        self.action = action
        self.executed.append(action)
        self.report.actions.append(action)
        return action

    def _corrected(self, obs: Observation, planned: np.ndarray, step: int) -> np.ndarray:
        try:
            return self.of.planner.corrected(obs, planned, step)
        except Exception as error:  # of an observation that is none: the robot goes on with what was planned
            self._note("no correction", error)
            return planned

    def _note(self, what: str, error: Exception) -> None:
        says = f"{type(error).__name__}: {error}"
        self.report.failures[says] = self.report.failures.get(says, 0) + 1
        _LOG.warning("%s: %s", what, says)

    def _guarded(self, guard: Guard, action: np.ndarray) -> np.ndarray:
        before = guard.interventions.total()
        allowed = guard(action)
        if guard.interventions.total() > before:
            self.report.changed.append(self.number)
        return allowed

    def _held(self, obs: Observation) -> np.ndarray:
        held = self._holding(obs)
        held = self.action if held is None else held
        if held is None:
            says = "the first chunk is not there yet, and nothing says how the robot holds where it is"
            raise ValueError(f"{says}; give hold=lambda obs: action")
        return held

    def _holding(self, obs: Observation) -> np.ndarray | None:
        """The action with which the robot stays where it is; None if nothing says so."""
        if self.of.hold is not None:
            return np.asarray(self.of.hold(obs), np.float32)
        if not self.meta.follows:
            return None
        vectors = [key for key, one in self.meta.fields.items() if one["kind"] == "vector"]
        parts = [obs[key] for key in vectors] if isinstance(obs, Mapping) else [obs]
        return np.concatenate([np.ravel(part) for part in parts])[list(self.meta.follows)].astype(np.float32)


def _copied(obs: Observation) -> Observation:
    if isinstance(obs, Mapping):
        return {key: np.array(values) for key, values in obs.items()}
    return np.array(obs)
