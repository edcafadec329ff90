"""Pictures in files of PNG, JPEG or TIFF, decoded with every checksum that they have compared."""

from __future__ import annotations

import io
import zlib

import numpy as np
from PIL import Image

from diffpolicy.util.errors import explain, require

_PNG = b"\x89PNG\r\n\x1a\n"
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def decode_picture(content: bytes, out: np.ndarray) -> None:
    """Put a picture into `out`.

    Args:
        content: of the file.
        out: (H, W, C): uint8, or uint16 of one channel for depth; depth as floats is taken for meters.

    Raises:
        ValueError: it is damaged, or of another size.
    """
    height, width, channels = out.shape
    if content.startswith(_PNG):
        _check_png(content)
    try:
        with Image.open(io.BytesIO(content)) as picture:
            says = f"a picture of {picture.height}x{picture.width} pixels"
            require((picture.height, picture.width) == (height, width), says, f"{height}x{width}")
            if out.dtype == np.uint8:
                deep = picture.mode.startswith(("I", "F"))
                require(not deep, f"a picture of mode {picture.mode}", "8 bits a channel")
                out[...] = np.asarray(picture.convert(_MODES[channels])).reshape(out.shape)
                return
            values = np.asarray(picture)
    except (OSError, SyntaxError, Image.DecompressionBombError, EOFError, zlib.error, MemoryError) as error:
        raise ValueError(explain(f"a picture is damaged ({error})")) from error
    require(values.shape == (height, width), f"depth of shape {values.shape}", f"{(height, width)}")
    values = np.rint(values * 1000) if values.dtype.kind == "f" else values
    fits = np.isfinite(values).all() and values.min() >= 0 and values.max() <= 65535
    require(fits, f"depth from {values.min()} to {values.max()}", "0 to 65535")
    out[..., 0] = values


def _check_png(content: bytes) -> None:
    """Compare the checksum of every chunk, which decoders do for some only."""
    place = len(_PNG)
    while place < len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        body = content[place + 4 : place + 8 + length]
        stated = content[place + 8 + length : place + 12 + length]
        whole = len(stated) == 4 and zlib.crc32(body) == int.from_bytes(stated, "big")
        require(whole, f"a PNG is damaged (its chunk at byte {place} has another checksum)")
        place += 12 + length
        if body[:4] == b"IEND":
            return
    raise ValueError(explain("a PNG is damaged (it has no end)"))
