"""Error messages of one form: what was given, what was expected, and one cure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def explain(given: str, expected: str | None = None, cure: str | None = None) -> str:
    """Return "given; expected …; cure", the form of every message of this project.

    Args:
        given: what is wrong, with the offending value, for example "training.steps=0".
        expected: what would be right, for example "at least 1".
        cure: one thing to do about it, in the imperative.
    """
    parts = [given, expected and f"expected {expected}", cure]
    return "; ".join(part for part in parts if part)


def require(
    holds: object,
    given: str,
    expected: str | None = None,
    cure: str | None = None,
    error: type[Exception] = ValueError,
) -> None:
    """Raise `error` with the message of `explain` unless `holds`. For checks at the doors, not in inner loops."""
    if not holds:
        raise error(explain(given, expected, cure))


class Interrupted(Exception):
    """Work that was stopped by a signal after its state was saved.

    Args:
        message: what was saved and how to continue.
        code: exit code of the process, 128 + the signal's number.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def located(where: object) -> Iterator[None]:
    """Put "where: " before the message of any ValueError, TypeError or KeyError raised inside, once."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        says = str(error.args[0]) if error.args else str(error)
        if says.startswith(str(where)):
            raise
        kind = next(kind for kind in (TypeError, KeyError, ValueError) if isinstance(error, kind))
        raise kind(f"{where}: {says}") from error
