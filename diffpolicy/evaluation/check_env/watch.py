"""Checks that take too long are given up, and the others go on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_GRACE = 10.0  # seconds for Python to take the interruption up; what hangs in a library never does
HUNG = 86
"""Exit code of a process whose check could not be interrupted."""


@contextmanager
def deadline(seconds: float, what: str) -> Iterator[None]:
    """Raise TimeoutError in the block after so many seconds; a worker process that ignores it is ended.

    Args:
        seconds: of the block.
        what: is done there, for the message.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"{what} takes more than {seconds:g} s")

    end = threading.Timer(seconds + _GRACE, os._exit, (HUNG,))
    end.daemon = True
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        if multiprocessing.parent_process() is not None:
            end.start()
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        end.cancel()
