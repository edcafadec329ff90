"""Ctrl-C, SIGTERM and the time limit: a run stops between two steps, at the same step on all ranks.

Parts of a run that take long and change nothing, an evaluation for example, are left at once:

    with Stop(ranks, max_minutes) as stop:
        while not stop.asked():
            ...
            with stop.leaving():
                evaluate()
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Self

from diffpolicy.training.distributed import Ranks

SIGNALS = (signal.SIGINT, signal.SIGTERM)
OUT_OF_TIME = 1
_TWICE = 1.0  # seconds in which one Ctrl-C reaches a rank both from the terminal and from torchrun


class Leave(BaseException):
    """Raised inside `Stop.leaving` by a signal; no error, so that nothing on the way catches it."""


class Stop:
    """Notes SIGINT, SIGTERM and the time limit while it is entered; a second signal ends the process at once.

    Signals that are ignored stay ignored, and threads other than the main one get none.

    Args:
        ranks: processes that have to stop together.
        max_minutes: the time limit, from now on; None sets none.
    """

    def __init__(self, ranks: Ranks, max_minutes: float | None = None) -> None:
        self.signal = 0
        self._ranks = ranks
        self._deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._before: dict[int, Any] = {}
        self._noted = 0.0
        self._leaves = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Return whether to stop now, which all ranks answer alike."""
        late = OUT_OF_TIME if self._deadline is not None and time.monotonic() > self._deadline else 0
        agreed = self._ranks.largest(self.signal or late)
        if agreed > OUT_OF_TIME:
            self.signal = agreed
        return bool(agreed)

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Raise Leave inside the block when a signal arrives, or whatever the block raises after one."""
        self._leaves = True
        try:
            if self.signal:
                raise Leave
            yield
        except Exception:
            if self.signal:  # the same signal has ended the workers of an evaluation, say
                raise Leave from None
            raise
        finally:
            self._leaves = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal and (self._ranks.world == 1 or now - self._noted > _TWICE):
            if "ps1" in vars(sys) or "ipykernel" in sys.modules:
                raise KeyboardInterrupt  # a notebook's process is more than this run
            os._exit(128 + number)
        if not self.signal and self._ranks.writes:
            _write("\nstopping; once more ends at once, without a checkpoint\n")
        self.signal, self._noted = self.signal or number, now
        if self._leaves:
            self._leaves = False
            raise Leave


def _write(text: str) -> None:
    """Write to the terminal from within a signal handler, which may have interrupted a print."""
    with suppress(OSError, AttributeError, ValueError):
        os.write(sys.__stderr__.fileno(), text.encode())
