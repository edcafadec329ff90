"""How the control loop, the guard and the server do: under load, under faults, under attack.

python scripts/lab/check_control.py rate RUN [--minutes 10]   a loop at 50 Hz, and one that its policy cannot keep
python scripts/lab/check_control.py faults RUN                servers that stall and are killed while robots run
python scripts/lab/check_control.py hostile RUN               10,000 messages that nobody should send
python scripts/lab/check_control.py round_trip RUN            a server's chunk beside one of this process
python scripts/lab/check_control.py fleet RUN                 32 robots at 10 Hz, one server

RUN is a policy of Push-T. What is found is kept in --out, subject by subject. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from diffpolicy.config.control import DriveConfig
from diffpolicy.control import wire
from diffpolicy.control.client import RemotePlanner
from diffpolicy.control.drive import together
from diffpolicy.control.guard import Guard, Limits
from diffpolicy.control.local import LocalPlanner
from diffpolicy.control.planners import make_planner
from diffpolicy.control.planning import Ask, warm
from diffpolicy.control.robots import EnvRobot
from diffpolicy.control.runner import RealTimeRunner, Report
from diffpolicy.evaluation import make_env
from diffpolicy.evaluation.contract import Contract, Place
from diffpolicy.evaluation.episode import Reset
from diffpolicy.evaluation.journal import Journal
from diffpolicy.evaluation.report import provenance
from diffpolicy.util.files import write_json

OUT = Path(__file__).resolve().parents[2] / "docs" / "results" / "control.json"
WATCHDOG = 0.3


class Endless:
    """Push-T by the wall clock: an episode that ends is followed by the next one."""

    def __init__(self, place: Place) -> None:
        self._place, self._seed = place, 0
        self._robot = EnvRobot(place, Reset(0))

    def observe(self) -> Any:
        if self._robot.done:
            self._seed += 1
            self._robot = EnvRobot(self._place, Reset(self._seed))
        return self._robot.observe()

    def act(self, action: np.ndarray) -> None:
        self._robot.act(action)


class Still:
    """A robot of which only the loop costs anything: it is where it was told to be."""

    def __init__(self, dim: int, seed: int) -> None:
        self._obs = np.random.default_rng(seed).uniform(100, 400, dim).astype(np.float32)

    def observe(self) -> np.ndarray:
        return self._obs

    def act(self, action: np.ndarray) -> None:
        self._obs[:2] = action


@contextmanager
def push_t() -> Iterator[Place]:
    place = Place(make_env("diffpolicy/PushT-v0", {"obs_mode": "keypoints"}), Contract(limited=True), Journal())
    with closing(place):
        yield place


def planner_of(run: Path, **settings: Any) -> LocalPlanner:
    return make_planner(DriveConfig(checkpoint=str(run), **settings))


def guard_of(planner: Any) -> Guard:
    return Guard(Limits.from_plain(planner.metadata.limits), WATCHDOG)


class Server:
    """`diffpolicy serve` in a process of its own, on one thread."""

    def __init__(self, run: Path, *settings: str, port: int = 0) -> None:
        self._command = [sys.executable, "-m", "diffpolicy", "serve", f"checkpoint={run}", *settings]
        self._start(port)

    def _start(self, port: int) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "env": env}
        self.process = subprocess.Popen([*self._command, f"port={port}"], **how)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"ws://[\w.]+:(\d+)", line)
        assert found is not None, line
        self.uri, self.port = found[0], int(found[1])

    def stall(self, seconds: float) -> None:
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGCONT)  # one that is stopped would not hear
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def again(self) -> None:
        self._start(self.port)

    def memory(self) -> float:
        """MiB that are resident."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]


def rate(options: argparse.Namespace) -> dict[str, Any]:
    """Return jitter and holds of a loop at 50 Hz, and of one whose policy needs longer than its chunks last."""
    found = {}
    slow = {"steps": 400, "rate": 100.0, "minutes": min(0.5, options.minutes)}
    for name, how in (("50 Hz", {"steps": 10, "rate": 50.0, "minutes": options.minutes}), ("too fast", slow)):
        planner = planner_of(options.run, steps=int(how["steps"]), compile=True)
        with push_t() as place:
            robot = Endless(place)
            warm(planner)
            guard = guard_of(planner)
            report = RealTimeRunner(robot, planner, how["rate"], guard).run(int(60 * how["minutes"] * how["rate"]))
        actions = np.array(report.actions)
        limits = guard.limits
        counted = report.summary() | together([report])
        found[name] = {"settings": how, **counted, "interventions": dict(guard.interventions)}
        found[name]["within_limits"] = bool(
            (actions >= limits.low - 1e-4).all() and (actions <= limits.high + 1e-4).all()
        )
    return found


def faults(options: argparse.Namespace) -> dict[str, Any]:
    """Return what became of robots whose servers stalled or were killed."""
    draw = random.Random(0)
    server = options.opened.enter_context(Server(options.run, "steps=4"))
    dim = planner_of(options.run).metadata.fields["obs"]["shape"][0]
    found: dict[str, Any] = {"rate": 20.0, "watchdog": WATCHDOG}
    for kind, count in (("stalls", options.stalls), ("kills", options.kills)):
        remote = RemotePlanner(server.uri, timeout=10.0)
        guard, over, ends = guard_of(remote), threading.Event(), list[float]()
        runner = RealTimeRunner(Still(dim, 0), remote, found["rate"], guard)
        kept: list[Report] = []
        drive = functools.partial(_driven, runner, over, kept)
        thread = threading.Thread(target=drive, daemon=True)
        began = time.monotonic()
        thread.start()
        time.sleep(2.0)
        for _ in range(count):
            if kind == "stalls":
                server.stall(draw.uniform(0.1, 3.0))
            else:
                server.kill()
                time.sleep(draw.uniform(0.1, 3.0))
                server.again()
            ends.append(time.monotonic() - began)
            time.sleep(draw.uniform(0.5, 1.5) + 2.5 * (kind == "kills"))
        over.set()
        thread.join()
        found[kind] = judged(kept[0], guard.limits, remote.metadata, ends) | {
            "interventions": dict(guard.interventions)
        }
        remote.close()
    return found


def _driven(runner: RealTimeRunner, over: threading.Event, kept: list[Report]) -> None:
    kept.append(runner.run(10**9, over=over.is_set))


def judged(report: Report, limits: Limits, meta: Any, ends: list[float]) -> dict[str, Any]:
    """Return how a run went, whose faults ended at these seconds, in seconds and steps."""
    actions, period, starts = np.array(report.actions), 1 / report.rate, np.array(report.starts)
    bad = ~np.isfinite(actions).all(1) | (actions < limits.low - 1e-4).any(1) | (actions > limits.high + 1e-4).any(1)
    if limits.speed is not None:
        bad[1:] |= (np.abs(np.diff(actions, axis=0)) > limits.speed + 1e-3).any(1)
    borders, late, recovered = np.array(report.borders), [], []
    lasts = meta.horizon - meta.obs_horizon + 1
    for end in ends:
        after, before = borders[starts[borders] >= end], borders[starts[borders] < end]
        if not len(after) or not len(before):
            late.append(np.inf)
            continue
        held = [step for step in report.held if before[-1] < step < after[0]]
        # Nothing is left where the last chunk ends, or where the watchdog stops it.
        delay = report.delays[report.arrivals.index(int(before[-1]))]
        out = starts[min(before[-1] + lasts - delay, len(starts) - 1)]
        asked = [starts[step] for step in report.asked if before[-1] <= step < after[0]]
        stopped = min(out, min(asked, default=out) + WATCHDOG)
        if stopped < starts[after[0]] - 2 * period:  # the chunk did not come just then
            late.append((starts[held[0]] - stopped) / period if held else np.inf)
        recovered.append(max(0.0, starts[after[0]] - end))
    found = {"faults": len(ends), "with_holds": len(late), "steps": len(actions), "holds": report.holds}
    found |= {"periods_to_hold": float(np.max(late)) if late else None, "bad_actions": int(bad.sum())}
    quantiles = {f"p{q}": float(np.percentile(recovered, q)) for q in (50, 100)} if recovered else {}
    return found | {"seconds_to_go_on": quantiles}


def hostile(options: argparse.Namespace) -> dict[str, Any]:
    """Return what a server does with messages that nobody should send, beside a robot that it serves."""
    server, draw = options.opened.enter_context(Server(options.run, "steps=1")), np.random.default_rng(0)
    robot = RemotePlanner(server.uri)
    dim, none = robot.metadata.fields["obs"]["shape"][0], np.empty((0, robot.metadata.action_dim), np.float32)
    good = Ask([np.zeros(dim, np.float32)] * robot.metadata.obs_horizon, (0, 0), none, none)
    warm(robot)
    before, answered, closed, served = server.memory(), 0, 0, 0
    messages, limit = attacks(wire.pack(wire.asking(good, 1)), draw), wire.message_limit(robot.metadata)
    sent = 0
    while sent < options.messages:
        with contextlib.suppress(WebSocketException), connect(server.uri, compression=None, proxy=None) as bad:
            bad.recv(timeout=10)
            for _ in range(100):
                sent += 1
                data = next(messages) if draw.random() > 0.002 else b"0" * (limit + 1 + int(draw.integers(2**22)))
                try:
                    bad.send(data)
                    wire.unpack(bad.recv(timeout=10))
                    answered += 1
                except WebSocketException:
                    closed += 1
                    raise
        robot.plan(good)
        served += 1
    after = server.memory()
    alive = server.process.poll() is None
    robot.close()
    counts = {"messages": sent, "answered": answered, "closed": closed, "served_meanwhile": served}
    return counts | {"alive": alive, "memory_mib": {"before": before, "after": after, "more": after - before}}


def attacks(good: bytes, draw: np.random.Generator) -> Iterator[bytes]:
    """Yield random bytes, damaged and cut messages, wrong kinds, and arrays that claim to be huge."""
    plain = msgpack.unpackb(good, raw=False)
    names = list(plain)
    while True:
        kind = int(draw.integers(6))
        damaged = bytearray(good)
        for _ in range(int(draw.integers(1, 4))):
            damaged[int(draw.integers(len(damaged)))] = int(draw.integers(256))
        wrong = [None, -1, "x", [], {}, 2**63, {"__array__": [1]}, [[[[[]]]]] * 9][int(draw.integers(8))]
        huge = {"__array__": ["float64", [2**40, 2**20], b"1234"]}
        yield (
            draw.bytes(int(draw.integers(0, 2000))),
            bytes(damaged),
            good[: int(draw.integers(1, len(good)))],
            msgpack.packb({**plain, names[int(draw.integers(len(names)))]: wrong}),
            msgpack.packb({**plain, "last": huge}),
            msgpack.packb(b"\xff" * int(draw.integers(10_000))),
        )[kind]


def round_trip(options: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of a chunk of a server on this machine, and of one of this process, in turn."""
    local, server = planner_of(options.run), options.opened.enter_context(Server(options.run))
    remote = RemotePlanner(server.uri)
    obs = np.random.default_rng(0).uniform(100, 400, (2, local.metadata.fields["obs"]["shape"][0])).astype(np.float32)
    none = np.empty((0, local.metadata.action_dim), np.float32)
    turns: dict[str, list[float]] = {"local": [], "remote": []}
    for number in range(options.turns + 10):
        for name, planner in (("local", local), ("remote", remote)):
            began = time.perf_counter()
            planner.plan(Ask(list(obs), (0, number), none, none))
            turns[name].append(time.perf_counter() - began)
    remote.close()
    found = {
        name: {f"p{q}": 1e3 * float(np.percentile(of[10:], q)) for q in (50, 95, 99)} for name, of in turns.items()
    }
    more = 1e3 * np.median(np.subtract(turns["remote"][10:], turns["local"][10:]))
    return {"turns": options.turns, "milliseconds": found, "median_more_ms": float(more)}


def fleet(options: argparse.Namespace) -> dict[str, Any]:
    """Return how many robots at 10 Hz one server keeps supplied."""
    server = options.opened.enter_context(Server(options.run, "steps=4"))
    remotes = [RemotePlanner(server.uri) for _ in range(options.robots)]
    dim, reports = remotes[0].metadata.fields["obs"]["shape"][0], list[Report]()

    def run(number: int, remote: RemotePlanner) -> None:
        robot = Still(dim, number)
        warm(remote)
        time.sleep(2.0 + 0.1 * (number % 8))
        reports.append(
            RealTimeRunner(robot, remote, 10.0, guard_of(remote)).run(int(10 * options.seconds), seed=number)
        )

    threads = [threading.Thread(target=run, args=one, daemon=True) for one in enumerate(remotes)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    for one in remotes:
        one.close()
    chunks = sum(len(one.delays) for one in reports)
    return {"robots": len(reports), "seconds": options.seconds, "chunks": chunks, **together(reports)}


SUBJECTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "rate": rate,
    "faults": faults,
    "hostile": hostile,
    "round_trip": round_trip,
    "fleet": fleet,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("run", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0, help="of `rate`")
    parser.add_argument("--stalls", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=500, help="of `round_trip`")
    parser.add_argument("--robots", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0, help="of `fleet`")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # of every action that the guard changes; they are counted
    with contextlib.ExitStack() as options.opened:
        found = SUBJECTS[options.subject](options)
    stored = json.loads(options.out.read_text()) if options.out.exists() else {}
    write_json(options.out, {**stored, options.subject: {**found, **provenance()}})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
