"""Videos decoded once, from front to back, whatever number of episodes they hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import av
import numpy as np

from diffpolicy.util.errors import explain, require

VIDEO_ERRORS = (av.FFmpegError, OSError, ValueError, IndexError, EOFError, MemoryError, OverflowError, RuntimeError)
"""What a damaged video makes PyAV raise."""

_STRICT = {"strict": "1", "err_detect": "crccheck+bitstream+buffer+explode"}  # a damage is an error, not a gray patch
_JUMP = 2.0  # seconds; beyond them seeking is faster than decoding
_DEEP = re.compile(r"gray(9|10|12|14|16)(le)?|yuv4\d\dp(9|10|12|14|16)(le)?")


@final
@dataclass(frozen=True)
class _Timed:
    time: float  # seconds
    frame: Any


@final
class Video:
    """A video file that is open, and how far it was decoded.

    Args:
        file: to open.

    Raises:
        ValueError: it cannot be opened, or holds no video.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._before: _Timed | None = None
        self._after: _Timed | None = None
        self._fault = ""
        self._careful = False
        self._open()

    def _open(self) -> None:
        try:
            self._container = av.open(str(self.file))
        except VIDEO_ERRORS as error:
            raise ValueError(explain(f"it is no whole video ({_says(error)})")) from error
        try:
            require(self._container.streams.video, "it holds no video")
            self._stream: Any = self._container.streams.video[0]
            self._stream.thread_type = "NONE" if self._careful else "AUTO"
            self._stream.codec_context.thread_count = 1 if self._careful else 0
            self._stream.codec_context.options = dict(_STRICT)
        except BaseException:
            self.close()
            raise
        self._before = self._after = None
        self._decoded = self._frames()

    @property
    def frames(self) -> int:
        """The frames that the file states; 0 if it does not."""
        return int(self._stream.frames)

    def read(self, start: float, count: int, fps: float, out: np.ndarray) -> int:
        """Put the frames nearest to start, start + 1 / fps, … into `out`; return its largest code, if it is depth.

        Args:
            start: seconds.
            count: frames.
            fps: frames per second.
            out: (count, H, W, C): uint8 takes colors, uint16 the codes of depth.

        Raises:
            ValueError: damaged frames, or none within half a frame of where one should be.
        """
        if not self._careful:
            try:
                return self._read(start, count, fps, out)
            except VIDEO_ERRORS:  # threads report a fault some frames early: which frames are lost, one alone says
                self.close()
                self._careful = True
                self._open()
                self._seek(start)
        try:
            return self._read(start, count, fps, out)
        except VIDEO_ERRORS as error:
            self.close()
            self._open()
            raise ValueError(explain(_says(error) + (f"; {self._fault}" if self._fault else ""))) from error

    def _read(self, start: float, count: int, fps: float, out: np.ndarray) -> int:
        held, last = self._before or self._after, self._after
        if held is None or last is None:
            if start > _JUMP:
                self._seek(start)
        elif held.time > start + 0.5 / fps or last.time < start - _JUMP:
            self._seek(start)
        largest, put = 255, -np.inf
        for i in range(count):
            wanted = start + i / fps
            nearest = self._nearest(wanted)
            off = np.inf if nearest is None else abs(nearest.time - wanted)
            says = f"the frame nearest to {wanted:.4f} s is {off:.4f} s off (frame {i} of {count})"
            require(off <= 0.5 / fps + 1e-6, says, f"at most {0.5 / fps:.4f} s")
            assert nearest is not None
            require(nearest.time > put, f"one frame at {put:.4f} s for two ({i - 1} and {i} of {count})")
            put, largest = nearest.time, _copy(nearest.frame, out[i])
        return largest

    def _nearest(self, wanted: float) -> _Timed | None:
        """The frame nearest to a time, which must not go back; None if there is none."""
        while self._after is None or self._after.time < wanted - 1e-6:
            found = next(self._decoded, None)
            if found is None:
                break
            self._before, self._after = self._after, found
        near = [one for one in (self._before, self._after) if one is not None]
        return min(near, key=lambda one: abs(one.time - wanted), default=None)

    def _frames(self) -> Iterator[_Timed]:
        """All frames from here on. With care, those from a faulty packet to the next key frame are left out."""
        faulty: list[list[float]] = []
        for packet in self._container.demux(self._stream):
            at = 0.0 if packet.pts is None else float(packet.pts * self._stream.time_base)
            if packet.is_keyframe and faulty and faulty[-1][1] == np.inf:
                faulty[-1][1] = at
            try:
                decoded = packet.decode()
            except VIDEO_ERRORS as error:
                if not self._careful:
                    raise
                self._fault = f"{_says(error)} at {at:.3f} s"
                if not faulty or faulty[-1][1] != np.inf:
                    faulty.append([at, np.inf])
                continue
            for frame in decoded:
                require(frame.pts is not None, "a frame without a time")
                time = float(frame.pts * frame.time_base)
                if not any(first <= time < last for first, last in faulty):
                    yield _Timed(time, frame)

    def _seek(self, start: float) -> None:
        """Go on decoding from the key frame before `start`."""
        self._before = self._after = None
        with suppress(*VIDEO_ERRORS):
            place = max(0, int((start - 1e-3) / self._stream.time_base))
            self._container.seek(place, stream=self._stream, backward=True)
        self._decoded = self._frames()

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        self._before = self._after = None
        self._container.close()


def _says(error: BaseException) -> str:
    """What FFmpeg says, without the file's name and the error's number."""
    text = str(error.args[1] if isinstance(error, av.FFmpegError) and len(error.args) > 1 else error)
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__


def _copy(frame: Any, out: np.ndarray) -> int:
    """Put the pixels of a frame into `out`; return the largest code that its format has."""
    height, width, channels = out.shape
    says = f"a frame of {frame.height}x{frame.width} pixels"
    require((frame.height, frame.width) == (height, width), says, f"{height}x{width}")
    require(not frame.is_corrupt, "a frame that is corrupt")
    if out.dtype == np.uint8:
        pixels = frame.to_ndarray(format="rgba" if channels == 4 else "rgb24")
        out[...] = pixels[..., :channels] if channels == 1 else pixels
        return 255
    deep = _DEEP.fullmatch(frame.format.name)
    require(deep or frame.format.name == "gray", f"depth in pixels of {frame.format.name}", "gray12le or gray16le")
    plane, bits = frame.planes[0], int(deep[1] or deep[3]) if deep else 8
    kind = np.dtype("<u2") if deep else np.dtype(np.uint8)
    rows = np.frombuffer(plane, kind).reshape(-1, plane.line_size // kind.itemsize)
    out[..., 0] = rows[:height, :width]
    return int(2**bits - 1)
