"""Commands as a user types them, in this process: no test pays for importing torch again."""

import contextlib
import io
import logging
import os
import sys
from pathlib import Path

from diffpolicy.cli import main

BIN = Path(sys.executable).parent


def typed(command, *arguments, cwd, ok=True, code=None):
    """Return what `diffpolicy command` prints, or, where it is to be refused (not `ok`, exit code 2), its errors."""
    expected = (0 if ok else 2) if code is None else code
    out, err, found = io.StringIO(), io.StringIO(), 0
    with _inside(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([command, *map(str, arguments)])
        except SystemExit as stop:
            found = stop.code or 0
    assert found == expected, f"exit code {found}: {out.getvalue()}{err.getvalue()}"
    return out.getvalue() if expected == 0 else out.getvalue() + err.getvalue()


@contextlib.contextmanager
def _inside(folder):
    before, level, handlers = Path.cwd(), logging.root.level, list(logging.root.handlers)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        logging.root.setLevel(level)
        logging.root.handlers[:] = handlers
        for logger in logging.root.manager.loggerDict.values():
            logger.disabled = False  # hydra, told to leave logging alone, silences what there was before
