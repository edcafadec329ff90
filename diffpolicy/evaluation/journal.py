"""Which call of which episode's environment is under way, noted where it survives the process that makes the call."""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import NamedTuple, final

CALLS = ("make", "reset", "step", "close")
"""What is called of an environment."""


class Call(NamedTuple):
    """A call of an environment.

    Attributes:
        what: one of `CALLS`.
        number: of the episode, see `Episode.number`.
        step: of the episode, counted from 1; 0 before the first.
    """

    what: str
    number: int
    step: int


@final
class Journal:
    """Notes every call of an environment before it is made, and that it has returned.

    Args:
        box: where it is noted, `SIZE` numbers in shared memory; None notes it for this process alone.
    """

    SIZE = 4

    def __init__(self, box: MutableSequence[float] | None = None) -> None:
        self._box = [0.0] * self.SIZE if box is None else box

    @property
    def count(self) -> int:
        """The calls so far: who sees the same number twice sees the same call."""
        return int(self._box[0])

    @property
    def call(self) -> Call | None:
        """The call that is under way."""
        _, what, number, step = self._box[:]
        return Call(CALLS[int(what) - 1], int(number), int(step)) if what else None

    def begin(self, what: str, number: int, step: int) -> None:
        """Note that a call is about to be made."""
        box = self._box
        box[2], box[3] = number, step
        box[0] += 1
        box[1] = CALLS.index(what) + 1  # last: from here on the note is whole

    def end(self) -> None:
        """Note that the call has returned."""
        self._box[1] = 0
