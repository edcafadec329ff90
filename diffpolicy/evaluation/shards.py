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
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, MutableSequence, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from diffpolicy.evaluation.journal import Call, Journal
from diffpolicy.util.errors import explain

Shard = TypeVar("Shard")
Item = TypeVar("Item")

INFERENCE_BLOCK = 32
"""Samples per network call; those of a block of a multiple of 16 do not depend on their place in it."""

_PATIENCE = 10.0
"""Seconds that a process may take to end, before it is killed."""

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


class Death(NamedTuple):
    """How a worker ended before its work did.

    Attributes:
        says: in words.
        call: of an environment, that was under way; None if there was none.
    """

    says: str
    call: Call | None


@dataclass
class _Worker:
    """A process, its work, and what is known of it."""

    process: BaseProcess
    journal: Journal
    number: int
    shard: Any
    seen: int = 0  # the call that was last seen under way,
    waited: float = 0.0  # and for how many seconds
    hung: Call | None = None  # the call for which it was killed
    items: int = 0  # that it has sent


def run_shards(
    work: Callable[..., Generator[Item, None, None]],
    shards: Sequence[Shard],
    mourn: Callable[[Shard, Death], tuple[Sequence[Item], Shard]],
    timeout: float | None = None,
    ahead: int | None = None,
) -> Generator[tuple[int, Item], None, None]:
    """Yield (number of the shard, item) for all that `work(shard, journal=journal)` yields, in a process per shard.

    The processes end when the generator is closed or fails, when this process ends, and when it is killed.

    Args:
        work: pickled here, to be unpickled by the workers alone.
        shards: one argument of `work` per process.
        mourn: (shard, death) -> items in place of those that will not come, and the shard that another process takes
            over; it may raise.
        timeout: seconds that a call in the journal may take, before its process is killed; None is without limit.
        ahead: items by which a process may be ahead of the slowest one, so that who needs them in turn keeps few in
            memory; it then waits with its next one. None is without limit.

    Raises:
        ValueError: `work` cannot be pickled.
        Exception: what `work` raised, with its type and message, and its traceback as a note; or what `mourn` raised.
    """
    packed = _pack(work)
    workers: dict[Connection, _Worker] = {}
    try:
        with _without_interrupts():
            for number, shard in enumerate(shards):
                workers |= [_started(number, shard)]
        # Sent only when all have been started, so that they spend the seconds of importing torch side by side.
        for pipe, worker in workers.items():
            _send(pipe, packed, worker.shard)
        while workers:
            for pipe in _ready(_heard(workers, ahead), timeout):
                worker = workers[pipe]
                try:
                    kind, value = pipe.recv()
                except (EOFError, OSError):  # it may have been killed in the middle of a message
                    del workers[pipe]
                    pipe.close()
                    further, left = mourn(worker.shard, _death(worker, timeout))
                    yield from ((worker.number, item) for item in further)
                    if left:
                        with _without_interrupts():
                            pipe, following = _started(worker.number, left)
                        following.items = worker.items + len(further)
                        workers[pipe] = following
                        _send(pipe, packed, left)
                    continue
                if kind == "error":
                    raise value
                if kind == "end":
                    del workers[pipe]
                    _end(pipe, worker)
                else:
                    worker.items += 1
                    yield worker.number, value
    finally:
        for worker in workers.values():
            worker.process.terminate()
        for pipe, worker in workers.items():
            _end(pipe, worker)


def _started(number: int, shard: Any) -> tuple[Connection, _Worker]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    box = RawArray("d", Journal.SIZE)
    process = context.Process(target=_serve, args=(there, box), name=f"{number + 1}", daemon=True)
    process.start()
    there.close()
    return here, _Worker(process, Journal(box), number, shard)


def _send(pipe: Connection, packed: bytes, shard: Any) -> None:
    with suppress(ConnectionError):  # it has died, which is noticed when it is listened to
        pipe.send_bytes(packed)
        pipe.send(shard)


def _end(pipe: Connection, worker: _Worker) -> None:
    _ended(worker.process)
    pipe.close()


def _ended(process: BaseProcess) -> bool:
    """Wait for a process to end, and return whether it did so by itself; one that does not is killed."""
    process.join(_PATIENCE)
    itself = process.exitcode is not None
    if not itself:
        process.kill()
        process.join()
    return itself


def _heard(workers: Mapping[Connection, _Worker], ahead: int | None) -> Mapping[Connection, _Worker]:
    """The workers that are not too far ahead of the slowest one."""
    if ahead is None:
        return workers
    most = min(worker.items for worker in workers.values()) + ahead
    return {pipe: worker for pipe, worker in workers.items() if worker.items < most}


def _ready(workers: Mapping[Connection, _Worker], timeout: float | None) -> list[Connection]:
    """The workers that have something to say, or have died; those that hang are killed."""
    if timeout is None:
        return wait(list(workers))  # type: ignore[return-value]
    turn = min(timeout / 4, 1.0)
    began = time.monotonic()
    ready = wait(list(workers), turn)
    # Time in which this process slept, too, does not count: then the worker may have slept as well.
    passed = min(time.monotonic() - began, 2 * turn)
    for pipe, worker in workers.items():
        call, count = worker.journal.call, worker.journal.count
        worker.waited = worker.waited + passed if call is not None and count == worker.seen else 0.0
        worker.seen = count
        if worker.waited > timeout and pipe not in ready:
            worker.hung = worker.hung or call  # which may return before it is killed
            worker.process.kill()
    return ready  # type: ignore[return-value]


def _death(worker: _Worker, timeout: float | None) -> Death:
    itself, code = _ended(worker.process), worker.process.exitcode
    if worker.hung:
        says = f"it had not returned after {timeout:g} s, and its process was killed"
    elif not itself:
        says = "its process no longer answered, and was killed"
    elif code is not None and code < 0:
        killed = signal.Signals(-code).name
        says = f"its process was ended by {killed}" + (", often for want of memory" if killed == "SIGKILL" else "")
    else:
        says = f"its process ended with exit code {code}"
    return Death(says, worker.hung or worker.journal.call)


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


def _serve(pipe: Connection, box: MutableSequence[float]) -> None:
    """A worker process: receive the work, send every item, and at last that it is done, or the error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        # Unpickled is what the parent has just pickled, and nothing that comes from a file.
        work = torch.load(io.BytesIO(pipe.recv_bytes()), weights_only=False)
        for item in work(pipe.recv(), journal=Journal(box)):
            pipe.send(("item", item))
        pipe.send(("end", None))
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
