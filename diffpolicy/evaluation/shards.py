"""Work dealt out to processes, which send what they make as they make it.

Processes are spawned: a fork would copy the locks of torch's threads in whatever state they are, and CUDA refuses it.
"""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, TypeVar

import torch

from diffpolicy.util.errors import explain

Shard = TypeVar("Shard")
Item = TypeVar("Item")
Result = TypeVar("Result")

INFERENCE_BLOCK = 32
"""Samples per network call; those of a block of a multiple of 16 do not depend on their place in it."""

_LOST = 1  # exit code of a worker whose parent has gone


def usable_cores(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return the cores that this process may use, by its affinity and its container's quota, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = limit.read_text().partition(" ") if limit.exists() else ("max", "", "")
    return cores if quota == "max" else min(cores, math.ceil(int(quota) / int(period)))


def choose_workers(device: torch.device, episodes: int) -> int:
    """Return how many processes pay: one for every block of episodes, at most one per core, none beside a GPU."""
    if device.type != "cpu":
        return 0  # the GPU does most of the work, and every process would take memory there
    workers = min(usable_cores(), math.ceil(episodes / INFERENCE_BLOCK))
    return workers if workers > 1 else 0


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, and restore its number of threads afterwards.

    How a matrix product is split between threads can change the last bit of its result: measured on networks of
    widths 256, 512, 1024 in blocks of 32 samples, 1 and 2 threads agree and 3 do not. Episodes must depend neither on
    the machine's cores nor on workers. More cores are for more workers: threads of one product wait for each other,
    which takes ten times as long where a core is busy with something else.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run_shards(
    work: Callable[[Shard], Generator[Item, None, Result]], shards: Sequence[Shard]
) -> Generator[Item, None, list[Result]]:
    """Yield what `work(shard)` yields, in a process for each shard; return what they return, in order.

    The processes end when the generator is closed or fails, when this process ends, and when it is killed.

    Args:
        work: pickled here, to be unpickled by the workers alone.
        shards: one argument of `work` per process.

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
        with _without_interrupts():
            for number in range(len(shards)):
                here, there = context.Pipe()
                workers[here] = context.Process(target=_serve, args=(there,), name=f"{number + 1}", daemon=True)
                workers[here].start()
                there.close()
        # Sent only when all have been started, so that they spend the seconds of importing torch side by side.
        for (pipe, process), shard in zip(workers.items(), shards, strict=True):
            with _noticing_death(process):
                pipe.send_bytes(packed)
                pipe.send(shard)
        while len(results) < len(workers):
            for pipe in wait([pipe for pipe in workers if pipe not in results]):
                with _noticing_death(workers[pipe]):
                    kind, value = pipe.recv()
                if kind == "error":
                    raise value
                if kind == "result":
                    results[pipe] = value
                else:
                    yield value
        return [results[pipe] for pipe in workers]
    finally:
        for process in workers.values():
            process.terminate()
        for pipe, process in workers.items():
            process.join()
            pipe.close()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start processes that never see Ctrl-C; one that comes meanwhile reaches this process afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # starting it would unblock the signal
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _pack(work: Any) -> bytes:
    buffer = io.BytesIO()
    try:
        # Not as multiprocessing would pickle it: that moves the weights into shared memory, which containers lack.
        torch.save(work, buffer)
    except Exception as error:
        cure = "let make_env be a function of a module, or roll out here with workers=0"
        raise ValueError(
            explain(f"this agent, make_env or observer cannot go to a worker: {error}", "what can be pickled", cure)
        ) from error
    return buffer.getvalue()


@contextmanager
def _noticing_death(process: BaseProcess) -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError):
        process.join(timeout=10)
        says = f"worker process {process.name} died (exit code {process.exitcode}; -9 is often for want of memory)"
        cure = "take workers=0 to see why, and start workers of a script below `if __name__ == '__main__':`"
        raise RuntimeError(explain(says, cure=cure)) from None


def _serve(pipe: Connection) -> None:
    """A worker process: receive the work, send every item, and at last the result or the error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        # Unpickled is what the parent has just pickled, and nothing that comes from a file.
        work = torch.load(io.BytesIO(pipe.recv_bytes()), weights_only=False)
        items = work(pipe.recv())
        while True:
            try:
                pipe.send(("item", next(items)))
            except StopIteration as end:
                pipe.send(("result", end.value))
                return
    except Exception as error:
        with suppress(OSError):  # nobody listens any more
            pipe.send(("error", _portable(error)))


def _end_with_parent() -> None:
    """End this process as soon as its parent has ended, however that happened."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(_LOST)


def _portable(error: Exception) -> Exception:
    """The error as it can be sent, with a note of where it arose."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
        sent = error
    except Exception:
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note("In a worker process:\n" + "".join(traceback.format_exception(error)))
    return sent
