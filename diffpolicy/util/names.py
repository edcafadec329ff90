"""Names that people type: are they known, and what did they mean?"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(name: object, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the known names close to `name`, or "" if none is close."""
    close = difflib.get_close_matches(str(name), [str(one) for one in known], n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """Return the message for a `kind` called `name` that does not exist: close names first, then all of them."""
    names = [str(one) for one in known]
    return f"unknown {kind} {name!r}{suggest(name, names)}; choose from {', '.join(names) or 'none'}"


def check(kind: str, name: object, known: Iterable[str], error: type[Exception] = ValueError) -> None:
    """Raise `error` with the message of `unknown` unless `name` is in `known`."""
    names = list(known)
    if name not in names:
        raise error(unknown(kind, name, names))
