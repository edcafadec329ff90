"""What a training run tells: metrics as JSON lines, TensorBoard on request, and lines on the terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from diffpolicy.util import files
from diffpolicy.util.errors import explain

METRICS = "metrics.jsonl"


class MetricsLog:
    """Appends to `run_dir/metrics.jsonl`, one object per line with its step and the seconds since the run began.

    What lies beyond `step` is dropped first: a resumed run writes it anew.

    Args:
        run_dir: folder of the run.
        step: the step from which the run continues.
        tensorboard: write the same numbers to `run_dir/tensorboard`.

    Raises:
        ImportError: TensorBoard was asked for and cannot be imported.
    """

    def __init__(self, run_dir: Path, step: int, tensorboard: bool = False) -> None:
        self._board: Any = _board(run_dir, step) if tensorboard else None
        path = run_dir / METRICS
        kept = [row for row in read_metrics(path) if row["step"] <= step]
        files.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", buffering=1, encoding="utf-8")
        self._began = time.monotonic() - (kept[-1].get("seconds", 0.0) if kept else 0.0)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line."""
        row = {"step": step, "seconds": round(time.monotonic() - self._began, 3), **values}
        self._file.write(json.dumps(row) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _board(run_dir: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except Exception as error:  # a broken installation raises all sorts of things
        says = f"training.tensorboard=true, and TensorBoard cannot be imported ({error})"
        raise ImportError(explain(says, cure="pip install 'diffpolicy[tensorboard]', or leave it off")) from None
    return SummaryWriter(run_dir / "tensorboard", purge_step=step + 1)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the lines of a metrics file; a last line cut off by a kill is left out, a missing file is empty."""
    found: list[dict[str, float]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


class Console:
    """A progress bar and lines above it; nothing at all if `quiet`."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None

    def start(self, step: int, steps: int) -> None:
        """Show the bar, at a step of so many."""
        self._bar = tqdm(total=steps, initial=step, desc="train", unit="step", disable=self._quiet)

    def advance(self, **shown: str) -> None:
        """Move the bar by a step, with new values behind it if any are given."""
        if shown:
            self._bar.set_postfix(refresh=False, **shown)
        self._bar.update()

    def say(self, line: str) -> None:
        """Print a line."""
        if not self._quiet:
            tqdm.write(line)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
