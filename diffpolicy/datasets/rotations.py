"""Rotations between what recordings hold, matrices, and the 6D representation that networks learn from.

The 6D representation is the first two columns of the rotation matrix (Zhou et al. 2019, "On the Continuity of
Rotation Representations in Neural Networks", section 4.2). It is continuous: an axis-angle jumps at π, a quaternion
and its negative are one rotation, Euler angles jump at ±π and lock.
"""

from __future__ import annotations

import itertools
import re

import torch
from torch import Tensor

_TINY = 1e-6
_EULER = ["".join(order) for order in itertools.permutations("xyz")]

KINDS: dict[str, int] = {
    "axis_angle": 3,
    "quaternion_xyzw": 4,
    "quaternion_wxyz": 4,
    **{f"euler_{order}": 3 for order in (*_EULER, *(order.upper() for order in _EULER))},
    "matrix": 9,
    "rotation_6d_columns": 6,
    "rotation_6d_rows": 6,
}
"""What a recording can hold -> its numbers.

`axis_angle` is the axis times the angle in radians. Euler angles are radians about the axes in the order named:
lower case about the fixed axes, upper case about those that turn along (the convention of scipy). A matrix is stored
row by row. A 6D rotation is the first two columns or rows of the matrix, one after the other.
"""


def to_matrix(kind: str, x: Tensor) -> Tensor:
    """Return rotations (..., numbers of the kind) as matrices (..., 3, 3)."""
    if kind == "axis_angle":
        return _from_axis_angle(x)
    if kind.startswith("quaternion"):
        return _from_quaternion(x if kind.endswith("wxyz") else torch.cat([x[..., 3:], x[..., :3]], -1))
    if kind.startswith("euler"):
        return _from_euler(kind.removeprefix("euler_"), x)
    if kind == "matrix":
        return x.unflatten(-1, (3, 3))
    matrix = from_6d(x)
    return matrix if kind == "rotation_6d_columns" else matrix.transpose(-1, -2)


def from_matrix(kind: str, matrix: Tensor) -> Tensor:
    """Return matrices (..., 3, 3) as rotations of a kind: an angle in [0, π], a quaternion with w >= 0."""
    if kind == "axis_angle":
        return _to_axis_angle(matrix)
    if kind.startswith("quaternion"):
        q = _to_quaternion(matrix)
        return q if kind.endswith("wxyz") else torch.cat([q[..., 1:], q[..., :1]], -1)
    if kind.startswith("euler"):
        return _to_euler(kind.removeprefix("euler_"), matrix)
    if kind == "matrix":
        return matrix.flatten(-2)
    return to_6d(matrix if kind == "rotation_6d_columns" else matrix.transpose(-1, -2))


def to_6d(matrix: Tensor) -> Tensor:
    """Return the first two columns of matrices (..., 3, 3), one after the other, (..., 6)."""
    return torch.cat([matrix[..., 0], matrix[..., 1]], -1)


def from_6d(x: Tensor) -> Tensor:
    """Return the rotation matrices (..., 3, 3) of any x (..., 6) by Gram-Schmidt (Zhou et al. 2019, equation 15)."""
    first = _unit(x[..., :3])
    second = x[..., 3:] - (first * x[..., 3:]).sum(-1, keepdim=True) * first
    second = _unit(second)
    return torch.stack([first, second, _cross(first, second)], -1)


def _unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    # Written out: torch.linalg.cross has no counterpart in ONNX.
    (a0, a1, a2), (b0, b1, b2) = a.unbind(-1), b.unbind(-1)
    return torch.stack([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0], -1)


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _from_axis_angle(v: Tensor) -> Tensor:
    """Rodrigues' formula, as the quaternion of the half angle."""
    square = v.square().sum(-1, keepdim=True)
    small = square < _TINY
    half = torch.where(small, torch.ones_like(square), square).sqrt() / 2
    factor = torch.where(small, 0.5 - square / 48, half.sin() / (2 * half))
    w = torch.where(small, 1 - square / 8, half.cos())
    return _from_quaternion(torch.cat([w, v * factor], -1))


def _to_axis_angle(matrix: Tensor) -> Tensor:
    q = _to_quaternion(matrix)
    w, v = q[..., :1], q[..., 1:]
    length = v.square().sum(-1, keepdim=True).sqrt()
    small = length < _TINY
    safe = torch.where(small, torch.ones_like(length), length)
    return v * torch.where(small, 2 * torch.ones_like(length), 2 * torch.atan2(length, w) / safe)


def _from_quaternion(q: Tensor) -> Tensor:
    w, x, y, z = _unit(q).unbind(-1)
    return _matrix(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _to_quaternion(matrix: Tensor) -> Tensor:
    """w, x, y, z with w >= 0, from the candidate with the largest divisor (Shepperd 1978)."""
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in matrix.unbind(-2))
    # Row k is the quaternion times four times its entry k, which appears squared on the diagonal.
    candidates = _matrix(
        [
            [1 + a + e + i, h - f, c - g, d - b],
            [h - f, 1 + a - e - i, b + d, c + g],
            [c - g, b + d, 1 - a + e - i, f + h],
            [d - b, c + g, f + h, 1 - a - e + i],
        ]
    )
    diagonal = torch.stack([candidates[..., k, k] for k in range(4)], -1)
    best = diagonal.argmax(-1)[..., None, None].expand(*matrix.shape[:-2], 1, 4)
    q = _unit(candidates.gather(-2, best)[..., 0, :])
    return torch.where(q[..., :1] < 0, -q, q)


def _from_euler(order: str, angles: Tensor) -> Tensor:
    axes, about = ["xyz".index(letter) for letter in order.lower()], list(angles.unbind(-1))
    if order.islower():  # about fixed axes is about turning axes in reverse
        axes, about = axes[::-1], about[::-1]
    first, second, third = (_about(axis, angle) for axis, angle in zip(axes, about, strict=True))
    return first @ second @ third


def _about(axis: int, angle: Tensor) -> Tensor:
    one, zero, c, s = torch.ones_like(angle), torch.zeros_like(angle), angle.cos(), angle.sin()
    rows = {
        0: [[one, zero, zero], [zero, c, -s], [zero, s, c]],
        1: [[c, zero, s], [zero, one, zero], [-s, zero, c]],
        2: [[c, -s, zero], [s, c, zero], [zero, zero, one]],
    }
    return _matrix(rows[axis])


def _to_euler(order: str, m: Tensor) -> Tensor:
    """Angles a, b, c of R = R_i(a) R_j(b) R_k(c), b in [-π/2, π/2]; where they lock, c = 0."""
    i, j, k = ("xyz".index(letter) for letter in (order.lower() if order.isupper() else order[::-1]))
    sign = 1.0 if (j - i) % 3 == 1 else -1.0
    cos_b = (m[..., i, i].square() + m[..., i, j].square()).sqrt()
    b = torch.atan2(sign * m[..., i, k], cos_b)
    locked = cos_b < _TINY
    a = torch.where(locked, sign * m[..., k, j], -sign * m[..., j, k])
    a = torch.atan2(a, torch.where(locked, m[..., j, j], m[..., k, k]))
    c = torch.atan2(-sign * m[..., i, j], m[..., i, i])
    c = torch.where(locked, torch.zeros_like(c), c)
    return torch.stack([a, b, c] if order.isupper() else [c, b, a], -1)


def looks_wrong(kind: str, x: Tensor) -> Tensor:
    """Return (...,) bool: which x (..., numbers of the kind) are no rotation, so that there is none to learn."""
    if kind.startswith("quaternion"):
        return (x.square().sum(-1).sqrt() - 1).abs() > 0.1
    if not re.match("matrix|rotation", kind):
        return torch.zeros(x.shape[:-1], dtype=torch.bool)
    if kind != "matrix":
        return (x.unflatten(-1, (2, 3)).square().sum(-1).sqrt() - 1).abs().amax(-1) > 0.1
    matrix = to_matrix(kind, x)
    off = (matrix @ matrix.transpose(-1, -2) - torch.eye(3, dtype=x.dtype)).abs().amax((-1, -2))
    return (off > 0.1) | (torch.linalg.det(matrix) < 0)
