"""Frames as a video file that browsers play."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(path: Path, frames: Sequence[np.ndarray], fps: float) -> None:
    """Write frames (H, W, 3) uint8 as an H.264 file.

    Args:
        path: of the MP4 file.
        frames: of equal size; an odd last line or column is cut off.
        fps: frames per second; the control rate shows real time.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        height, width = frames[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width - width % 2, height - height % 2, "yuv420p"
        stream.options = {"crf": "23"}
        for frame in frames:
            image = av.VideoFrame.from_ndarray(frame[: stream.height, : stream.width], format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())
