"""Commands as a user types them."""

import os
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent


def typed(command, *arguments, cwd, ok=True):
    """What diffpolicy-`command` prints, or, where it is to fail, its errors."""
    done = subprocess.run(
        [str(BIN / f"diffpolicy-{command}"), *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout if ok else done.stderr
