"""Metrics as JSON lines, one object per line with its step; TensorBoard beside it when installed."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO


class MetricsLog:
    """Appends to `run_dir/metrics.jsonl`, after dropping what lies beyond `step`: a resumed run writes it anew.

    With the package tensorboard installed, the same numbers go to `run_dir/tensorboard`. The file is locked until
    `close`, or the end of the process, so that a run has one writer.

    Raises:
        FileExistsError: another process trains into `run_dir`.
    """

    def __init__(self, run_dir: Path, step: int) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / "metrics.jsonl"
        partial = self._path.with_suffix(".jsonl.partial")
        with self._path.open("a") as before:
            _lock(before, self._path)
            kept = [row for row in read_metrics(self._path) if row["step"] <= step]
            self._file = partial.open("w", buffering=1)
            _lock(self._file, partial)  # goes with the file to its new name
            self._file.writelines(json.dumps(row) + "\n" for row in kept)
            partial.replace(self._path)
        self._began = time.monotonic() - (kept[-1].get("seconds", 0.0) if kept else 0.0)
        self._board = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(run_dir / "tensorboard", purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line: the step, the seconds since the run began, and `values`."""
        row = {"step": step, "seconds": round(time.monotonic() - self._began, 3), **values}
        self._file.write(json.dumps(row) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def _lock(file: TextIO, path: Path) -> None:
    """Hold `file`, just opened at `path`; refused where another process does, or has replaced it since."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        alone = False
    except OSError:  # a file system that knows no locks
        alone = True
    if not alone:
        raise FileExistsError(
            f"another process is training into {path.parent}: wait for it or stop it, or choose another run_dir"
        )


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics file; a last line cut off by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
