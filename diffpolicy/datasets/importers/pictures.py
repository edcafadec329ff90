"""Pictures in files of PNG, JPEG or TIFF, decoded with every checksum that they have compared."""

from __future__ import annotations

import io
import zlib

import numpy as np
from PIL import Image

from diffpolicy.util.errors import explain, require

_PNG = b"\x89PNG\r\n\x1a\n"
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_FORMATS = ("PNG", "JPEG", "TIFF")  # Pillow reads some others by programs that it starts


def decode_image(content: bytes, what: str) -> np.ndarray:
    """Return the image (H, W, C) uint8 in a file of any size.

    Args:
        content: of the file.
        what: the image is, for the message.

    Raises:
        ValueError: it cannot be decoded, or has other pixels.
    """
    pixels = np.asarray(_decoded(content, what))
    require(pixels.dtype == np.uint8, f"{what} has {pixels.dtype} pixels", "uint8")
    return pixels[..., None] if pixels.ndim == 2 else pixels


def decode_picture(content: bytes, out: np.ndarray) -> None:
    """Put a picture into `out`.

    Args:
        content: of the file.
        out: (H, W, C): uint8, or uint16 of one channel for depth; depth as floats is taken for meters.

    Raises:
        ValueError: it is damaged, or of another size.
    """
    height, width, channels = out.shape
    picture = _decoded(content, "a picture")
    says = f"a picture of {picture.height}x{picture.width} pixels"
    require((picture.height, picture.width) == (height, width), says, f"{height}x{width}")
    if out.dtype == np.uint8:
        deep = picture.mode.startswith(("I", "F"))
        require(not deep, f"a picture of mode {picture.mode}", "8 bits a channel")
        out[...] = np.asarray(picture.convert(_MODES[channels])).reshape(out.shape)
        return
    values = np.asarray(picture)
    require(values.shape == (height, width), f"depth of shape {values.shape}", f"{(height, width)}")
    values = np.rint(values * 1000) if values.dtype.kind == "f" else values
    fits = np.isfinite(values).all() and values.min() >= 0 and values.max() <= 65535
    require(fits, f"depth from {values.min()} to {values.max()}", "0 to 65535")
    out[..., 0] = values


def _decoded(content: bytes, what: str) -> Image.Image:
    """A picture with all its pixels; what is no picture of `_FORMATS`, or a damaged one, is a ValueError."""
    try:
        if content.startswith(_PNG):
            _check_png(content)
        picture = Image.open(io.BytesIO(content), formats=_FORMATS)
        picture.load()
    except (
        *(OSError, ValueError, SyntaxError, EOFError, MemoryError),
        Image.DecompressionBombError,
        zlib.error,
    ) as error:
        raise ValueError(explain(f"{what} cannot be decoded ({error})")) from error
    return picture


def _check_png(content: bytes) -> None:
    """Compare the checksum of every chunk, which decoders do for some only."""
    place = len(_PNG)
    while place < len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        body = content[place + 4 : place + 8 + length]
        stated = content[place + 8 + length : place + 12 + length]
        whole = len(stated) == 4 and zlib.crc32(body) == int.from_bytes(stated, "big")
        require(whole, f"its chunk at byte {place} has another checksum")
        place += 12 + length
        if body[:4] == b"IEND":
            return
    raise ValueError("it has no end")
