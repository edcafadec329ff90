"""Frames as a video file that browsers play."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, final

import av
import numpy as np


@final
class VideoWriter:
    """Writes frames (H, W, 3) uint8 as an H.264 file, one by one; none is kept.

    Args:
        path: of the MP4 file.
        fps: frames per second; the control rate shows real time.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        self._stream.pix_fmt, self._stream.options = "yuv420p", {"crf": "23"}

    def write(self, frame: np.ndarray) -> None:
        """Add a frame, which is as large as the first; an odd last line or column is cut off."""
        stream = self._stream
        if not stream.codec_context.is_open:
            height, width = frame.shape[:2]
            stream.width, stream.height = width - width % 2, height - height % 2
        image = av.VideoFrame.from_ndarray(frame[: stream.height, : stream.width], format="rgb24")
        self._container.mux(stream.encode(image))

    def close(self) -> None:
        """Complete the file."""
        if self._stream.codec_context.is_open:
            self._container.mux(self._stream.encode())
        self._container.close()


def write_video(path: Path, frames: Sequence[np.ndarray], fps: float) -> None:
    """Write frames (H, W, 3) uint8 as an H.264 file.

    Args:
        path: of the MP4 file.
        frames: of equal size; an odd last line or column is cut off.
        fps: frames per second; the control rate shows real time.
    """
    writer = VideoWriter(path, fps)
    try:
        for frame in frames:
            writer.write(frame)
    finally:
        writer.close()


def frame_trouble(frame: Any) -> str | None:
    """Return why what `render()` returned is no frame of a video, in a sentence; None if it is one."""
    if not isinstance(frame, np.ndarray):
        return f"render() returns a {type(frame).__name__} and no frame"
    if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8:
        return f"render() returns {frame.shape} {frame.dtype}, and videos take frames (H, W, 3) uint8"
    return None
