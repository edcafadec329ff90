"""A hook of the site: links from pages to files of the repository lead to pages that show these files.

In a checkout such links are ordinary relative links; on the site each linked file gets a page below `source/`, and
each notebook of the labs a page in its own place.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
NOTEBOOK = re.compile(r"\]\((?P<page>(?:[^)\s]*/)?labs/[^)\s/]+)\.ipynb\)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sh": "bash", ".toml": "toml", ".json": "json"}


def on_files(files: Files, config: Any) -> Files:
    """Add a page for every notebook, and for every file outside docs that a page links to."""
    for notebook in sorted((ROOT / "docs" / "labs").glob("*.ipynb")):
        files.append(File.generated(config, f"labs/{notebook.stem}.md", content=_read_through(notebook)))
    linked = {path for file in files.documentation_pages() for _, path in _outside(file.src_uri, file.content_string)}
    for path in sorted(linked):
        target = ROOT / path
        if target.is_dir():
            content = _listing(path, target)
        elif target.suffix == ".md":
            content = target.read_text("utf-8")
            content = LINK.sub(lambda found: found["text"], content)  # its links are relative to another place
        else:
            language = LANGUAGES.get(target.suffix, "text")
            content = f"# {path}\n\n````{language}\n{target.read_text('utf-8')}\n````\n"
        files.append(File.generated(config, _page(path), content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to notebooks and to files outside docs into links to their pages."""
    markdown = NOTEBOOK.sub(r"](\g<page>.md)", markdown)
    here = posixpath.dirname(page.file.src_uri)
    for target, path in _outside(page.file.src_uri, markdown):
        markdown = re.sub(
            rf"\]\({re.escape(target)}(#[^)\s]*)?\)", f"]({posixpath.relpath(_page(path), here or '.')})", markdown
        )
    return markdown


def _outside(page: str, markdown: str) -> list[tuple[str, str]]:
    """The links of a page that leave docs for an existing file: (as written, path from the root)."""
    found = []
    for link in LINK.finditer(markdown):
        target = link["target"]
        if "://" in target or target.startswith("mailto:"):
            continue
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
        is_folder = path.startswith("docs/") and (ROOT / path).is_dir()
        if (not path.startswith("docs/") or is_folder) and (ROOT / path).exists():
            found.append((target, path))
    return found


def _read_through(notebook: Path) -> str:
    """The text and the code of a notebook as one page, with a link to the file."""
    parts = []
    for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        shown = text.replace("<details>", '<details markdown="1">')
        parts.append(f"````python\n{text}\n````" if cell["cell_type"] == "code" else shown)
    parts.insert(1, f"The notebook itself, to run: [{notebook.name}]({notebook.name}).")
    return "\n\n".join(parts)


def _page(path: str) -> str:
    return f"source/{path}.md"


def _listing(path: str, folder: Path) -> str:
    names = sorted(
        f"{one.name}/" if one.is_dir() else one.name for one in folder.iterdir() if one.name[0] not in "._"
    )
    return f"# {path}\n\n" + "\n".join(f"- {name}" for name in names)
