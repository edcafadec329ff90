"""Functions and classes that a person names as "module:name"; never for a name from a file that is read."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from types import ModuleType
from typing import Any

from diffpolicy.util.errors import explain, require
from diffpolicy.util.names import unknown


def is_import_path(text: object) -> bool:
    """Return whether a text has the form "module:name", as in "my_package.experts:make"."""
    return isinstance(text, str) and re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", text) is not None


def import_named(path: str, what: str) -> Any:
    """Return what "module:name" names; the module may also be a file in the working folder.

    Args:
        path: "module:name"; the name may have dots, as in "module:Class.method".
        what: the setting, for messages, such as "expert".

    Raises:
        ValueError: not of this form, or a name that the module does not have.
        ImportError: the module is not found, or raises where it is imported.
    """
    require(is_import_path(path), f"{what}={path}", '"module:name"', f"as in {what}=my_module:make")
    module, _, name = path.partition(":")
    found: Any = import_module(module, f"{what}={path}")
    for part in name.split("."):
        has = sorted(one for one in vars(found) if not one.startswith("_"))
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ValueError(f"{what}={path}: {unknown('name', part, has)}") from None
    return found


def import_module(name: str, given: str) -> ModuleType:
    """Return an imported module, which may also be a file in the working folder.

    Args:
        name: of the module.
        given: the setting that names it, for messages, such as "env.id=my_module:Mine-v0".

    Raises:
        ImportError: it is not found, or raises where it is imported.
    """
    here = os.getcwd()
    if not {"", here} & set(sys.path) and not _is_installed(name.partition(".")[0]):
        sys.path.append(here)  # stays, so that worker processes find it too
        importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except Exception as error:  # a module may raise anything while it is imported
        missing = isinstance(error, ModuleNotFoundError) and name.startswith(str(error.name))
        says = "there is no such module" if missing else f"{type(error).__name__}: {error}"
        cure = "install its package, or go to the folder of its file" if missing else None
        raise ImportError(explain(f"{given} cannot be imported: {says}", cure=cure)) from error


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module without a spec, such as __main__
        return True
