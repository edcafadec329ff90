"""Names that people type: are they known, and what did they mean?"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from diffpolicy.util.errors import require


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


def sliced(name: str) -> tuple[str, slice | None]:
    """Return the array and the part that a name means: "action[3:6]", "action[6]", or "action" for all of it.

    Raises:
        ValueError: brackets with anything else in them, or a part without numbers.
    """
    key, opened, inside = name.partition("[")
    if not opened:
        return key, None
    found = re.fullmatch(r"(\d+)(?::(\d+))?\]", inside)
    first = int(found[1]) if found else 0
    last = int(found[2] or first + 1) if found else 0
    require(
        key and first < last, f"{name!r}", "an array, or a part of it as in action[3:6] (3, 4 and 5) or action[6]"
    )
    return key, slice(first, last)
