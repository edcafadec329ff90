"""Pages of one HTML file in this project's style: pictures and videos are inside, nothing is linked."""

from __future__ import annotations

import base64
import functools
from pathlib import Path

import jinja2

_SHARED = Path(__file__).parent / "templates"


@functools.cache
def template(folder: Path, name: str) -> jinja2.Template:
    """Return a template, which may extend "document.html.j2", the frame of all pages.

    Args:
        folder: where it is.
        name: of its file.
    """
    loader = jinja2.FileSystemLoader([folder, _SHARED])
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True).get_template(name)


def embedded(content: Path | bytes, kind: str) -> str:
    """Return a file, or its content, as a data: address of a media type such as "image/png"."""
    content = content if isinstance(content, bytes) else content.read_bytes()
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
