"""The gallery's files: small images, and from one list of figures a README for GitHub and a page for a browser."""

from __future__ import annotations

import base64
import inspect
import io
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

import diffpolicy
from diffpolicy.gallery.style import CYCLE, DEEP, INK, MUTED, Exhibit
from diffpolicy.util import files

TITLE = "The notes in figures"
INTRODUCTION = (
    "Every figure is made by the library's own functions: its paths, fields, solvers, objectives and guidance, its "
    "one sampling loop, and its one training loop for whatever is learned. Time runs from t = 0 (noise) to t = 1 "
    "(data); α and σ are the scales of data and noise, x = α·data + σ·noise, and λ = log(α/σ), half the logarithm of "
    "the signal-to-noise ratio SNR = α²/σ², is the log-SNR. The lecture notes that this project began from print "
    "some formulas differently; a remark then says what they print, and what is right."
)
_COLORS = 256
_SHADES = 7  # of each ink, from faint to full
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=jinja2.select_autoescape(["html.j2"]),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
)


_FRAME_MS = 160


def save_figure(file: Path, drawn: Figure | Sequence[Figure]) -> None:
    """Write a figure as a PNG of 256 colors, a third of the size and the same to the eye; of several, a film."""
    frames, small = [_pixels(one) for one in ([drawn] if isinstance(drawn, Figure) else drawn)], io.BytesIO()
    strip, height = _with_palette(Image.fromarray(np.concatenate(frames))), len(frames[0])
    first, *rest = (strip.crop((0, k * height, strip.width, (k + 1) * height)) for k in range(len(frames)))
    film = {"save_all": True, "append_images": rest, "duration": _FRAME_MS, "loop": 0} if rest else {}
    first.save(small, format="png", optimize=True, **film)
    files.write_bytes(file, small.getvalue())


def _pixels(figure: Figure) -> np.ndarray:
    """A figure's pixels (H, W, 3), uint8."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return np.asarray(Image.open(buffer).convert("RGB"))


def write_pages(folder: Path, exhibits: Sequence[Exhibit], commands: Mapping[str, str]) -> None:
    """Write README.md, which links the PNG files in `folder`, and index.html, which contains them.

    Args:
        folder: where the PNG files are.
        exhibits: the figures to show.
        commands: name of a figure -> command that made it.
    """
    images = {one.name: base64.b64encode((folder / f"{one.name}.png").read_bytes()).decode() for one in exhibits}
    content: dict[str, Any] = {"title": TITLE, "introduction": INTRODUCTION, "exhibits": exhibits, "images": images}
    content |= {"made_by": _made_by(exhibits, commands), "sources": _sources(folder, exhibits)}
    for page, template in (("README.md", "readme.md.j2"), ("index.html", "index.html.j2")):
        files.write_text(folder / page, _TEMPLATES.get_template(template).render(content).rstrip() + "\n")


def _made_by(exhibits: Sequence[Exhibit], commands: Mapping[str, str]) -> list[tuple[str, str]]:
    """Which figures each command made, in words, and the command."""
    figures: dict[str, list[str]] = {}
    for one in exhibits:
        figures.setdefault(commands[one.name], []).append(one.name)
    if len(figures) == 1:
        return [("This makes all of them:", next(iter(figures)))]
    most = max(figures.values(), key=len)
    only = {command: "" if of is most else f' "only=[{",".join(of)}]"' for command, of in figures.items()}
    return [(f"This made {', '.join(of)}:", f"{command}{only[command]}") for command, of in figures.items()]


def _sources(folder: Path, exhibits: Sequence[Exhibit]) -> dict[str, str]:
    """Name of a function -> where its source is as seen from `folder`, of a folder in the checkout."""
    root, found = Path(diffpolicy.__file__).resolve().parents[1], {}
    if not folder.resolve().is_relative_to(root):
        return {}
    for name in {name for one in exhibits for name in one.functions}:
        module, _, inside = name.partition(":")
        source = inspect.getsourcefile(_unwrapped(attrgetter(inside)(import_module(module)), import_module(module)))
        found[name] = os.path.relpath(source or "", folder.resolve())
    return found


def _unwrapped(thing: object, module: ModuleType) -> Any:
    """What knows where it was written: a function or a class, or of anything else the module that it is named in."""
    thing = thing.fget if isinstance(thing, property) else thing
    return thing if inspect.isfunction(thing) or inspect.isclass(thing) else module


def _with_palette(image: Image.Image) -> Image.Image:
    """The image in its frequent colors and in those of lines and letters, which are too rare to be among them."""
    inks = [_over_white(color, k / _SHADES) for color in (INK, MUTED, DEEP, *CYCLE) for k in range(1, _SHADES + 1)]
    inks.append([255, 255, 255])
    frequent = image.quantize(_COLORS - len(inks)).getpalette()[: 3 * (_COLORS - len(inks))]
    palette = np.array([*inks, *np.reshape(frequent, (-1, 3))])
    # Pillow's own search for the nearest color is approximate: white came out gray.
    pixels = np.asarray(image).astype(np.int64) @ [1 << 16, 1 << 8, 1]
    packed, where = np.unique(pixels, return_inverse=True)
    colors = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1)
    parts = np.array_split(colors, len(colors) // 4096 + 1)
    nearest = np.concatenate([np.square(part[:, None] - palette).sum(2).argmin(1) for part in parts])
    reduced = Image.fromarray(nearest[where].reshape(pixels.shape).astype(np.uint8), "P")
    reduced.putpalette(palette.astype(np.uint8).tobytes())
    return reduced


def _over_white(color: str, opacity: float) -> list[int]:
    return [round(255 * (1 - opacity * (1 - channel))) for channel in to_rgb(color)]
