"""What is wrong with observations that a policy was given, and what to do about it.

Policies observe at every control step, so that each check returns before it makes a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from diffpolicy.util.errors import explain, require
from diffpolicy.util.names import suggest

_UINT8 = np.dtype(np.uint8)
_ALONE = "add the batch axis to every array, or give `act` a list of observations, [obs]"


def check_entries(obs: Mapping[str, Any], keys: Iterable[str], expected: str) -> None:
    """Raise ValueError unless a mapping has all keys; it may have more.

    Args:
        obs: the observations.
        keys: what is observed.
        expected: the same in words.
    """
    missing = [key for key in keys if key not in obs]
    if missing:
        given = f"obs has {', '.join(map(repr, obs)) or 'no entries'}"
        raise ValueError(explain(f"{given} and lacks {missing[0]!r}{suggest(missing[0], obs)}", expected))


def check_image(
    key: str, values: np.ndarray, shape: tuple[int, ...], leading: tuple[int, ...], dtype: np.dtype = _UINT8
) -> None:
    """Raise TypeError or ValueError unless images have the given dtype and shape.

    Args:
        key: of the camera.
        values: the images.
        shape: (H, W, C).
        leading: sizes of the axes before these: batch, and time if there is one.
        dtype: uint8, or uint16 for depth.
    """
    expected = (*leading, *shape)
    if values.dtype == dtype and values.shape == expected:
        return
    says = f"obs[{key!r}] is {values.dtype}"
    if dtype == _UINT8:
        require(values.dtype == dtype, says, "uint8 images, 0 to 255", _as_uint8(values), TypeError)
    cure = "give x.round().astype(np.uint16), in the unit of the recording"
    require(values.dtype == dtype, says, "depth in uint16", cure, TypeError)
    cure = _reshaped(values.shape, expected, len(leading))
    raise ValueError(
        explain(f"obs[{key!r}] has shape {values.shape}", f"({_axes(leading)}, H, W, C) = {expected}", cure)
    )


def check_text(key: str, values: np.ndarray, leading: tuple[int, ...]) -> None:
    """Raise TypeError or ValueError unless texts are strings, one per moment.

    Args:
        key: of the text.
        values: the texts.
        leading: sizes of the axes of the batch and of time.
    """
    if values.dtype.kind != "U":
        raise TypeError(explain(f"obs[{key!r}] is {values.dtype}", "text", "give np.array of strings"))
    if values.shape != leading:
        raise ValueError(explain(f"obs[{key!r}] has shape {values.shape}", f"{leading}, one text per moment"))


def check_vector(key: str, values: np.ndarray, size: int | None, leading: tuple[int, ...]) -> None:
    """Raise ValueError unless vectors have the leading axes, and `size` numbers behind these if that is known."""
    shape = values.shape
    if shape[: len(leading)] == leading and size in (None, int(np.prod(shape[len(leading) :]))):
        return
    says = "…" if size is None else str(size)
    expected = f"({_axes(leading)}, {says}) = {(*leading, size or '…')}"
    raise ValueError(explain(f"obs[{key!r}] has shape {shape}", expected, _ALONE if np.prod(shape) == size else None))


def check_array(values: np.ndarray, expected: tuple[int, ...]) -> None:
    """Raise ValueError unless an array has the expected axes behind its batch axis."""
    if values.ndim and values.shape[1:] == expected:
        return
    cure = "add the batch axis with agent.act([obs])" if values.shape == expected else None
    axes = "(B, D)" if len(expected) == 1 else "(B, T_o, D)"
    sizes = f"(B, {', '.join(map(str, expected))})"
    raise ValueError(explain(f"obs has shape {values.shape}", f"{axes} = {sizes}", cure))


def check_finite(vectors: np.ndarray) -> None:
    """Raise ValueError for NaN or infinity in vectors (B, T_o, D)."""
    finite = np.isfinite(vectors)
    if not finite.all():
        sample = int(np.argmax(~finite.all(axis=(1, 2))))
        says = f"obs holds NaN or infinity (sample {sample})"
        raise ValueError(explain(says, cure="check the sensors before acting on it"))


def _axes(leading: tuple[int, ...]) -> str:
    return "B" if len(leading) == 1 else "B, T_o"


def _as_uint8(values: np.ndarray) -> str | None:
    """How to make uint8 images of `values`, by the range that they seem to have."""
    if not (np.issubdtype(values.dtype, np.number) and values.size):
        return None
    low, high = float(values.min()), float(values.max())
    whole = np.issubdtype(values.dtype, np.integer)
    if low >= 0 and high <= 1 and not whole:
        return "these look like 0 to 1: give (x * 255).round().astype(np.uint8)"
    if -1 <= low < 0 and high <= 1 and not whole:
        return "these look like -1 to 1: give ((x + 1) * 127.5).round().astype(np.uint8)"
    if low >= 0 and high <= 255:
        return f"these look like 0 to 255: give {'x' if whole else 'x.round()'}.astype(np.uint8)"
    return f"these run from {low:g} to {high:g}, which is no known range of images"


def _reshaped(shape: tuple[int, ...], expected: tuple[int, ...], leading: int) -> str | None:
    """What to do about images of another shape than expected, whose first `leading` axes are batch and time."""
    if shape == expected[1:]:
        return _ALONE
    if shape == (*expected[:leading], expected[-1], *expected[leading:-1]):
        return "the channels come last: give np.moveaxis(x, -3, -1)"
    if len(shape) == len(expected) and shape[:leading] == expected[:leading]:
        return "scale or crop the images to this shape"
    return None
