"""Packages that only some commands need."""

from __future__ import annotations

import importlib
from types import ModuleType

from diffpolicy.util.errors import explain


def optional(module: str, extra: str, what: str = "this") -> ModuleType:
    """Return an imported module of a package that is an extra.

    Args:
        module: its full name.
        extra: of this project, which installs it.
        what: needs it, for the message.

    Raises:
        ImportError: it is not installed; names the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = (error.name or module).partition(".")[0]
        says = explain(f"{what} needs the package {package} ({error})", cure=f"pip install 'diffpolicy[{extra}]'")
        raise ImportError(says) from error
