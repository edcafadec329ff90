"""The gallery's files: small pictures, and from one list of figures a README for GitHub and a page for a browser."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from diffpolicy.gallery.style import CYCLE, DEEP, INK, MUTED, Exhibit
from diffpolicy.util import files

_TITLE = "The notes in figures"
_INTRODUCTION = (
    "Every figure is made by the library's own functions: its paths, fields, solvers, objectives and guidance, its "
    "one sampling loop, and its one training loop for whatever is learned. Time runs from t = 0 (noise) to t = 1 "
    "(data); α and σ are the scales of data and noise, x = α·data + σ·noise, and λ = log(α/σ), half the logarithm of "
    "the signal-to-noise ratio SNR = α²/σ², is the log-SNR. Where the lecture notes that this project began from "
    "print a formula in another way, what holds is said below it."
)
_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin: 3rem 0 .4rem }
img { max-width: 100%; background: white; border-radius: 4px; display: block; margin: .6rem 0 }
.formula { background: #8882; padding: .6rem 1rem; border-radius: 4px; font-family: Cambria, "STIX Two Text", serif;
  font-size: 1.08rem; white-space: pre-wrap }
.erratum { border-left: 4px solid #d9480f; padding-left: .8rem }
.small { font-size: .85rem; opacity: .85 } code { font-size: .85em }
nav { columns: 2; font-size: .9rem }
"""


def save_figure(file: Path, figure: Figure) -> None:
    """Write a figure as a PNG of 256 colours, a third of the size and to the eye the same."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    small = io.BytesIO()
    _reduced(Image.open(buffer).convert("RGB")).save(small, format="png", optimize=True)
    files.write_bytes(file, small.getvalue())


def _reduced(picture: Image.Image) -> Image.Image:
    """With the picture's frequent colours, and those of lines and letters, which are too rare to be among them."""
    inks = [_over_white(color, share / 7) for color in (INK, MUTED, DEEP, *CYCLE) for share in range(1, 8)]
    inks.append([255, 255, 255])
    frequent = picture.quantize(256 - len(inks)).getpalette()[: 3 * (256 - len(inks))]
    palette = np.array([*inks, *np.reshape(frequent, (-1, 3))])
    # Pillow's own search for the nearest colour is approximate: white came out grey.
    pixels = np.asarray(picture).astype(np.int64) @ [1 << 16, 1 << 8, 1]
    packed, where = np.unique(pixels, return_inverse=True)
    colors = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1)
    parts = np.array_split(colors, len(colors) // 4096 + 1)
    nearest = np.concatenate([np.square(part[:, None] - palette).sum(2).argmin(1) for part in parts])
    reduced = Image.fromarray(nearest[where].reshape(pixels.shape).astype(np.uint8), "P")
    reduced.putpalette(palette.astype(np.uint8).tobytes())
    return reduced


def _over_white(color: str, opacity: float) -> list[int]:
    return [round(255 * (1 - opacity * (1 - channel))) for channel in to_rgb(color)]


def write_pages(folder: Path, exhibits: Sequence[Exhibit], commands: Mapping[str, str]) -> None:
    """README.md, which shows the PNG files beside it, and index.html, which holds them, of figures in `folder`.

    `commands` are what made each of them, by name.
    """
    files.write_text(folder / "README.md", _readme(exhibits, commands))
    files.write_text(folder / "index.html", _page(folder, exhibits, commands))


def _made_by(exhibits: Sequence[Exhibit], commands: Mapping[str, str]) -> list[tuple[str, str]]:
    """What was typed, and for which figures."""
    names: dict[str, list[str]] = {}
    for exhibit in exhibits:
        names.setdefault(commands[exhibit.name], []).append(exhibit.name)
    if len(names) == 1:
        return [("All of them are made by", next(iter(names)))]
    return [(f"Made by the following: {', '.join(of)}", command) for command, of in names.items()]


def _readme(exhibits: Sequence[Exhibit], commands: Mapping[str, str]) -> str:
    made = [f"{what}\n\n```bash\n{command}\n```" for what, command in _made_by(exhibits, commands)]
    parts = [f"# {_TITLE}", _INTRODUCTION, *made]
    for exhibit in exhibits:
        parts += [f"## {exhibit.title}", f"```math\n{exhibit.latex}\n```"]
        if exhibit.erratum:
            parts.append(f"> In the notes printed otherwise: {exhibit.erratum}")
        parts += [f"![{exhibit.title}]({exhibit.name}.png)", exhibit.see]
        parts.append("By " + ", ".join(f"`{name}`" for name in exhibit.functions) + ".")
    return "\n\n".join(parts) + "\n"


def _page(folder: Path, exhibits: Sequence[Exhibit], commands: Mapping[str, str]) -> str:
    links = "".join(f'<div><a href="#{e.name}">{escape(e.title)}</a></div>' for e in exhibits)
    parts = [
        f"<h1>{_TITLE}</h1><p>{escape(_INTRODUCTION)}</p>",
        *(f"<p>{escape(what)}</p><pre>{escape(command)}</pre>" for what, command in _made_by(exhibits, commands)),
        f"<nav>{links}</nav>",
    ]
    for e in exhibits:
        source = base64.b64encode((folder / f"{e.name}.png").read_bytes()).decode()
        functions = ", ".join(f"<code>{escape(name)}</code>" for name in e.functions)
        parts += [f'<h2 id="{e.name}">{escape(e.title)}</h2>', f'<div class="formula">{escape(e.formula)}</div>']
        if e.erratum:
            parts.append(f'<p class="erratum">In the notes printed otherwise: {escape(e.erratum)}</p>')
        parts += [f'<img alt="{escape(e.title)}" src="data:image/png;base64,{source}">', f"<p>{escape(e.see)}</p>"]
        parts.append(f'<p class="small">By {functions}.</p>')
    head = f'<meta charset="utf-8"><title>{_TITLE}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'
