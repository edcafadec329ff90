"""Whether frames can be had, what they cost, and whether looking changes the episode."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np

from diffpolicy.evaluation.check_env.findings import Findings, sentence
from diffpolicy.evaluation.check_env.traces import SEEDED, Instance, difference, kept_globals, run
from diffpolicy.evaluation.contract import MakeEnv
from diffpolicy.evaluation.journal import Journal
from diffpolicy.evaluation.report.video import frame_trouble

_FRAMES = 5
_MODE = "rgb_array"
_CURE = "MUJOCO_GL=egl in the environment variables lets MuJoCo draw without a display"


def check_rendering(
    makes: tuple[MakeEnv, MakeEnv], journal: Journal, modes: Sequence[str], seed: int, actions: Sequence[Any]
) -> Findings:
    """Return what frames an environment renders, and what they cost.

    Args:
        makes: make one environment that is not to render frames, and one that is.
        journal: where their calls are noted.
        modes: its render modes, as its metadata says.
        seed: of the episode that is looked at.
        actions: of the episode.
    """
    found = Findings("rendering")
    if modes and _MODE not in modes:
        found.notes.append(f"no {_MODE!r} among its render modes ({', '.join(map(str, modes))}): there are no videos")
        return found
    seconds: list[float] = []
    plain, rendering = makes
    with kept_globals():
        try:
            with closing(Instance(rendering, journal)) as env:

                def look(_: int = 0) -> Any:
                    began = time.perf_counter()
                    frame = env.render()
                    seconds.append(time.perf_counter() - began)
                    return frame

                watched = run(env, seed, actions[:_FRAMES], seeded=SEEDED, between=look)
                _judge_frame(found, look(), seconds)
        except Exception as error:
            found.notes.append(_why_not(error, modes))
            return found
        with closing(Instance(plain, journal)) as env:
            unseen = run(env, seed, actions[:_FRAMES], seeded=SEEDED)
    if difference(watched, unseen):
        found.notes.append("looking changes the episode: videos show other ones than those that are counted")
    return found


def _why_not(error: Exception, modes: Sequence[str]) -> str:
    if not modes:
        return "its metadata names no render modes: there are no videos"
    graphics = any(word in str(error).lower() for word in ("gl", "display", "mujoco"))
    return f"cannot render: {sentence(error)}" + (f"; {_CURE}" if graphics else "")


def _judge_frame(found: Findings, frame: Any, seconds: Sequence[float]) -> None:
    trouble = frame_trouble(frame)
    if trouble is not None:
        found.notes.append(f"{trouble}: there are no videos")
        return
    usual, first = 1000 * float(np.median(seconds)), 1000 * seconds[0]
    found.values |= {"shape": [*frame.shape], "ms": usual, "first_ms": first}
    found.facts.append(f"frames {frame.shape} uint8, {usual:.3g} ms each, the first {first:.3g} ms")
    if frame.min() == frame.max():
        found.notes.append("the frame has one color only; is anything in sight?")
