"""Whether frames can be had, what they cost, and whether looking changes the episode."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np

from diffpolicy.evaluation import contract
from diffpolicy.evaluation.check_env.findings import Findings, sentence
from diffpolicy.evaluation.check_env.traces import SEEDED, Trace, difference, run
from diffpolicy.evaluation.contract import MakeEnv

_FRAMES = 5
_MODE = "rgb_array"
_CURE = "MUJOCO_GL=egl in the environment variables lets MuJoCo draw without a display"


def check_rendering(make: MakeEnv, modes: Sequence[str], seed: int, actions: Sequence[Any], first: Trace) -> Findings:
    """Return what frames an environment renders, and what they cost.

    Args:
        make: makes one environment that is to render frames.
        modes: its render modes, as its metadata says.
        seed: of the episode.
        actions: of the episode.
        first: the same episode without frames.
    """
    found = Findings("rendering")
    if modes and _MODE not in modes:
        found.notes.append(f"no {_MODE!r} among its render modes ({', '.join(map(str, modes))}): there are no videos")
        return found
    seconds: list[float] = []

    def look(_: int = 0) -> np.ndarray:
        began = time.perf_counter()
        frame = env.render()
        seconds.append(time.perf_counter() - began)
        return frame

    try:
        with closing(contract.make(make)) as env:
            watched = run(env, seed, actions[:_FRAMES], seeded=SEEDED, between=look)
            _judge_frame(found, look(), seconds)
    except Exception as error:
        if not modes:
            found.notes.append("its metadata names no render modes: there are no videos")
            return found
        graphics = any(word in str(error).lower() for word in ("gl", "display", "mujoco"))
        found.notes.append(f"cannot render: {sentence(error)}" + (f"; {_CURE}" if graphics else ""))
        return found
    if difference(watched, Trace(first.rows[: watched.steps + 1])):
        found.notes.append("looking changes the episode: videos show other ones than those that are counted")
    return found


def _judge_frame(found: Findings, frame: Any, seconds: Sequence[float]) -> None:
    if not isinstance(frame, np.ndarray):
        found.notes.append(f"render() returns a {type(frame).__name__} and no frame: there are no videos")
        return
    usual = 1000 * float(np.median(seconds))
    found.values |= {"shape": [*frame.shape], "dtype": str(frame.dtype), "ms": usual, "first_ms": 1000 * seconds[0]}
    found.facts.append(
        f"frames {frame.shape} {frame.dtype}, {usual:.3g} ms each, the first {1000 * seconds[0]:.3g} ms"
    )
    if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8:
        found.notes.append("videos take frames (H, W, 3) uint8, so there are none")
    elif frame.min() == frame.max():
        found.notes.append("the frame has one color only; is anything in sight?")
