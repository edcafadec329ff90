"""Rollouts dealt out to processes: one callable, a share of the episodes for each process.

Processes are spawned: a fork would copy the locks of torch's threads in whatever state they are, and CUDA refuses it.
"""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, TypeVar

import torch

Tick = Callable[[], object]  # called whenever an episode has ended
Part = TypeVar("Part")
Result = TypeVar("Result")


def usable_cores(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use: its affinity, and its container's share of the processor, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = limit.read_text().partition(" ") if limit.exists() else ("max", "", "")
    return cores if quota == "max" else min(cores, math.ceil(int(quota) / int(period)))


def run_shards(work: Callable[[Part, Tick], Result], shares: Sequence[Part], tick: Tick) -> list[Result]:
    """work(share, tick) in a process for each share; the results in the order of the shares.

    Args:
        work: holds the policy and what makes environments; is pickled, to be unpickled by the workers alone.
        tick: called here as often as the workers call theirs.

    Raises:
        ValueError: `work` cannot be pickled.
        RuntimeError: a worker died.
        Exception: what `work` raised, with its type and message, and its traceback as a note.
    """
    packed = _pack(work)
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, BaseProcess] = {}
    results: dict[Connection, Result] = {}
    try:
        for number in range(len(shares)):
            here, there = context.Pipe()
            # A daemon, so that no worker outlives this process.
            workers[here] = context.Process(target=_serve, args=(there,), name=f"{number + 1}", daemon=True)
            workers[here].start()
            there.close()
        # Sent only when all have been started, so that they spend the seconds of importing torch side by side.
        for (pipe, process), share in zip(workers.items(), shares, strict=True):
            with _noticing_death(process):
                pipe.send_bytes(packed)
                pipe.send(share)
        while len(results) < len(workers):
            for pipe in wait([pipe for pipe in workers if pipe not in results]):
                with _noticing_death(workers[pipe]):
                    kind, value = pipe.recv()
                if kind == "error":
                    raise value
                if kind == "result":
                    results[pipe] = value
                else:
                    tick()
        return [results[pipe] for pipe in workers]
    finally:
        for pipe, process in workers.items():
            process.terminate()
            process.join()
            pipe.close()


def _pack(work: Any) -> bytes:
    buffer = io.BytesIO()
    try:
        # Not as multiprocessing would pickle it: that moves the weights into shared memory, which containers lack.
        torch.save(work, buffer)
    except Exception as error:
        raise ValueError(
            f"workers need a policy and a make_env that can be pickled: {error}. Let make_env be a function of a "
            "module, or a functools.partial of one, or roll out here with workers=0"
        ) from error
    return buffer.getvalue()


@contextmanager
def _noticing_death(process: BaseProcess) -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError):
        process.join(timeout=10)
        raise RuntimeError(
            f"worker process {process.name} died (exit code {process.exitcode}; -9 is often for want of memory). Run "
            "with workers=0 to see why; a script with workers must call for them below `if __name__ == '__main__':`"
        ) from None


def _serve(pipe: Connection) -> None:
    """A worker process: receives its work, tells of every episode, and sends the result or the error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its workers
    try:
        # Unpickled is what the parent has just pickled, and nothing that comes from a file.
        work = torch.load(io.BytesIO(pipe.recv_bytes()), weights_only=False)
        pipe.send(("result", work(pipe.recv(), lambda: pipe.send(("tick", None)))))
    except Exception as error:
        pipe.send(("error", _portable(error)))


def _portable(error: Exception) -> Exception:
    """The error as it can be sent, with a note of where it arose."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
        sent = error
    except Exception:
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note("In a worker process:\n" + "".join(traceback.format_exception(error)))
    return sent
