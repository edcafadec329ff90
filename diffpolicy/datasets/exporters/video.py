"""Videos written frame by frame."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, final

import av
import numpy as np

from diffpolicy.util.errors import explain, require

CODECS = ("auto", "av1", "h264", "hevc", "lossless")
_SMALLEST = 64  # pixels of a side, that encoders of AV1 take
_KEY_FRAMES = "2"  # every second frame is a key frame, as LeRobot writes: any frame is near one


@final
@dataclass(frozen=True)
class Encoding:
    """How a camera's images become a video.

    Args:
        encoder: of FFmpeg.
        pixels: pixel format of the video.
        options: of the encoder.
    """

    encoder: str
    pixels: str
    options: Mapping[str, str]

    @classmethod
    def of(cls, codec: str, crf: int, size: tuple[int, int]) -> Encoding:
        """Return the encoding of a codec for images of a size.

        AV1 takes neither odd sizes nor small ones, and gives way to H.264 there.

        Args:
            codec: one of `CODECS`; "auto" is AV1 if this PyAV can write it.
            crf: constant rate factor; smaller is better and larger.
            size: (height, width) of the images.

        Raises:
            ValueError: a codec that this PyAV cannot write.
        """
        odd = any(side % 2 for side in size)
        if codec in ("auto", "av1"):
            can = "libsvtav1" in av.codecs_available
            require(can or codec == "auto", "codec=av1: this PyAV cannot write it", cure="choose codec=h264")
            codec = "av1" if can and not odd and min(size) >= _SMALLEST else "h264"
        shared = {"g": _KEY_FRAMES, "crf": str(crf)}
        found = {
            "av1": cls("libsvtav1", "yuv420p", {**shared, "preset": "12"}),
            "h264": cls("libx264", "yuv444p" if odd else "yuv420p", {**shared, "bf": "0"}),
            "hevc": cls(
                "libx265", "yuv444p" if odd else "yuv420p", {**shared, "x265-params": "log-level=error:bframes=0"}
            ),
            "lossless": cls("libx264rgb", "rgb24", {"g": _KEY_FRAMES, "crf": "0", "bf": "0", "preset": "veryfast"}),
        }[codec]
        can = found.encoder in av.codecs_available
        require(can, f"codec={codec}: this PyAV lacks {found.encoder}", cure="choose another codec")
        return found


@final
class VideoWriter:
    """Writes one mp4 file, which is whole once it is closed.

    Args:
        file: to write.
        encoding: how.
        fps: frames per second.
        size: (height, width) of the images.

    Raises:
        ValueError: an encoder that does not take such images.
    """

    def __init__(self, file: Path, encoding: Encoding, fps: float, size: tuple[int, int]) -> None:
        os.environ.setdefault("SVT_LOG", "1")  # its encoder prints a page otherwise
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file, self.frames, self.bytes = file, 0, 0
        rate = Fraction(fps).limit_denominator(100_000)
        self._container = av.open(str(file), "w")
        try:
            stream: Any = self._container.add_stream(encoding.encoder, rate, options=dict(encoding.options))
            stream.height, stream.width = size
            stream.pix_fmt = encoding.pixels
            stream.codec_context.time_base = 1 / rate
            self._stream, self._base = stream, 1 / rate
        except (av.FFmpegError, ValueError) as error:
            self._container.close()
            raise ValueError(explain(f"{encoding.encoder} does not take images of {size} ({error})")) from error

    def add(self, images: np.ndarray) -> None:
        """Write images (L, H, W, 3) uint8.

        Raises:
            ValueError: the encoder refuses them.
            OSError: as on a full disk.
        """
        for image in images:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = self.frames, self._base
            self._encode(frame)
            self.frames += 1

    def _encode(self, frame: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(frame):
                self.bytes += packet.size
                self._container.mux(packet)
        except av.FFmpegError as error:
            if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
                raise
            raise ValueError(explain(f"{self.file.name} cannot be encoded ({error})")) from error

    def close(self) -> None:
        """Finish the file."""
        if self._container is not None:
            self._encode(None)
            self._container.close()
            self._container = None

    def abandon(self) -> None:
        """Close the file as it is, unless it is finished."""
        if self._container is not None:
            with suppress(av.FFmpegError, ValueError, OSError):
                self._stream.encode(None)  # an encoder that is not told of the end complains
            with suppress(av.FFmpegError, ValueError, OSError):
                self._container.close()
            self._container = None


def describe(file: Path) -> dict[str, Any]:
    """Return what a video is, by the names that LeRobot gives it."""
    with av.open(str(file)) as container:
        stream: Any = container.streams.video[0]
        return {
            "video.height": stream.height,
            "video.width": stream.width,
            "video.codec": {"libdav1d": "av1"}.get(stream.codec_context.name, stream.codec.canonical_name),
            "video.pix_fmt": stream.codec_context.pix_fmt,
            "video.channels": 3,
            "has_audio": bool(container.streams.audio),
            "is_depth_map": False,
        }
