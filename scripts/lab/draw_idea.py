"""Draw docs/images/idea.svg: observation history, sampled chunks, executed part.

python scripts/lab/draw_idea.py docs/images/idea.svg
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

WIDTH, HEIGHT, NOW, STEP = 860, 300, 190, 38
OBSERVED, PREDICTED, EXECUTED = 2, 16, 8
INK, MUTED, SEEN, DONE, REST = "#24292f", "#6e7781", "#0969da", "#1a7f37", "#b4c6d8"


def draw() -> str:
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" font-family="system-ui, sans-serif" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#ffffff"/>',
        _band(_x(0), _x(EXECUTED) - STEP / 2, "#dafbe1"),
        _text(_x(0) + EXECUTED * STEP / 2 - STEP / 2, 32, f"executed: T_a = {EXECUTED} actions", DONE),
        _text(_x(EXECUTED) + 130, 32, f"predicted: T_p = {PREDICTED} actions", MUTED),
        _text(_x(-1) - 26, 32, f"seen: T_o = {OBSERVED}", SEEN),
    ]
    chunks = _chunks()
    for number, chunk in enumerate(chunks[1:]):
        parts.append(_line(chunk, REST, 1.4, 0.9 if number % 2 else 0.7))
    parts.append(_line(chunks[0][: EXECUTED + 1], DONE, 3.2, 1))
    parts.append(_line(chunks[0][EXECUTED:], DONE, 2, 0.35))
    for step, (x, y) in enumerate(chunks[0][1 : EXECUTED + 1]):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{DONE}"><title>action {step}</title></circle>')
    for step in (-1, 0):
        parts.append(_robot(_x(step) - STEP * 0.5, 150))
    parts += [
        f'<path d="M{NOW - STEP / 2:.0f} 58V228" stroke="{INK}" stroke-dasharray="3 4"/>',
        _text(NOW - STEP / 2, 246, "now", INK),
        f'<path d="M40 262H{WIDTH - 30}" stroke="{INK}" stroke-width="1.2"/>',
        f'<path d="M{WIDTH - 30} 262l-9 -4.5v9z" fill="{INK}"/>',
        _text(WIDTH - 62, 284, "control steps", MUTED),
        _text(_x(EXECUTED) - STEP / 2, 284, "look again, sample again", INK),
        f'<path d="M{_x(EXECUTED) - STEP / 2:.0f} 270v-14" stroke="{INK}" stroke-width="1.6"/>',
        _text(_x(11.5), 70, "one way round …", MUTED),
        _text(_x(11.5), 246, "… or the other: samples keep the two apart", MUTED),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _x(step: float) -> float:
    return NOW + STEP * step


def _chunks() -> list[np.ndarray]:
    """Trajectories from now on that part into two modes; the first one is executed."""
    draw, steps = np.random.default_rng(3), np.arange(PREDICTED - OBSERVED + 2)
    chunks = []
    for number in range(26):
        side = -1 if number % 2 == 0 else 1
        bend = side * 58 * (1 - np.exp(-((steps / 6.0) ** 2))) * draw.normal(1, 0.12 if number else 0)
        wave = draw.normal(0, 5 if number else 0) * np.sin(steps / 3)
        chunks.append(np.stack([_x(0) - STEP / 2 + STEP * steps, 150 + bend + wave], axis=1))
    return chunks


def _line(points: np.ndarray, color: str, width: float, opacity: float) -> str:
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="{path}" fill="none" stroke="{color}" stroke-width="{width}" opacity="{opacity}"/>'


def _band(left: float, right: float, color: str) -> str:
    return (
        f'<rect x="{left - STEP / 2:.0f}" y="58" width="{right - left + STEP / 2:.0f}" height="170" fill="{color}"/>'
    )


def _robot(x: float, y: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y}" r="9" fill="{SEEN}"/><circle cx="{x:.1f}" cy="{y}" r="4" fill="#ffffff"/>'


def _text(x: float, y: float, text: str, color: str) -> str:
    return f'<text x="{x:.0f}" y="{y}" text-anchor="middle" font-size="15" fill="{color}">{text}</text>'


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(), encoding="utf-8")
