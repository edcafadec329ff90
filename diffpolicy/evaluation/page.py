"""An evaluation as one page to open in a browser: everything it shows is inside the file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin-top: 2.2rem }
img { max-width: 100%; background: white; border-radius: 4px }
.figures { display: flex; flex-wrap: wrap; gap: 1.5rem; margin: 1.2rem 0 }
.figure { border-left: 4px solid #2a7; padding-left: .8rem } .figure b { font-size: 1.9rem; display: block }
.films { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0 } video { width: 18rem; border-radius: 4px }
figcaption, .small { font-size: .85rem; opacity: .8 }
pre { background: #8882; padding: .7rem 1rem; overflow-x: auto; border-radius: 4px; font-size: .85rem }
table { border-collapse: collapse; font-size: .85rem } td { padding: .1rem 1rem .1rem 0; vertical-align: top }
"""
_NAMES = {
    "score": ("score", "maximum over an episode of clip(coverage / 0.95, 0, 1)", "{:.3f}"),
    "success": ("success", "episodes with a coverage above 0.95 at some step", "{:.0%}"),
    "final_coverage": ("final coverage", "at the last step", "{:.3f}"),
}


def write_page(
    path: Path,
    result: Mapping[str, Any],
    pictures: Sequence[tuple[str, Path, str]],
    films: Sequence[tuple[Path, Mapping[str, Any]]],
    commands: Sequence[tuple[str, str]],
) -> None:
    """Write an evaluation's page.

    Args:
        path: the HTML file.
        result: contents of `evaluation.json`.
        pictures: (heading, PNG file, what it shows).
        films: (MP4 file, the row of its episode).
        commands: how to go on: (what it does, what to type).
    """
    config = result["checkpoint"]["config"]
    title = f"{config['env']['id'].removeprefix('diffpolicy/')}, {len(result['episodes'])} episodes"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="small">{escape(_how(result))}</p>',
        '<div class="figures">',
        *(_figure(result[key], *_NAMES[key]) for key in _NAMES),
        "</div>",
        '<p class="small">In brackets 95% intervals: bootstrap over episodes, Wilson\'s for success.</p>',
    ]
    parts += [show(*picture) for picture in pictures]
    for heading, wanted in (("Successes", True), ("Failures", False)):
        kept = [(file, row) for file, row in films if row["success"] is wanted]
        count = sum(row["success"] is wanted for row in result["episodes"])
        parts.append(f"<h2>{heading}: {count} of {len(result['episodes'])}</h2>")
        parts += ['<div class="films">', *(_film(*film) for film in kept), "</div>"]
    parts.append("<h2>How to go on</h2>")
    for says, command in commands:
        parts += [f"<p>{escape(says)}</p>", f"<pre>{escape(command)}</pre>"]
    made = {"commit": result["commit"], "processor": result["processor"], **result["versions"]}
    rows = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in made.items())
    parts += ["<h2>Made with</h2>", f"<table>{rows}</table>"]
    write_document(path, title, parts)


def write_document(path: Path, title: str, parts: Sequence[str]) -> None:
    """Write pieces of HTML as one page in this project's style."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    text = f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def show(heading: str, file: Path, says: str) -> str:
    """A PNG file under its heading, inside the page, with what it shows."""
    picture = f'<img alt="{escape(heading)}" src="{_data(file, "image/png")}">'
    return f'<h2>{escape(heading)}</h2>{picture}<p class="small">{escape(says)}</p>'


def _how(result: Mapping[str, Any]) -> str:
    checkpoint, settings = result["checkpoint"], result["settings"]
    config, seeds = checkpoint["config"], settings["seeds"]
    data, sampler = config["dataset"], settings["sampler"]
    drawn = f"; solver {sampler['solver']}, {sampler['steps']} steps" if sampler else ""
    return (
        f"Trained for {checkpoint['step']} steps on {data['path'] or data['name']}; checkpoint chosen on seeds kept "
        f"apart. Initial states: {'the paper’s' if seeds == 'paper' else f'seeds from {seeds} on'}{drawn}; "
        f"{result['network_calls']} network calls for a chunk of actions."
    )


def _figure(value: Mapping[str, float], name: str, meaning: str, form: str) -> str:
    mean, low, high = (form.format(value[key]) for key in ("mean", "low", "high"))
    return (
        f'<div class="figure" title="{escape(meaning)}"><b>{mean}</b>{name} [{low}, {high}]'
        f'<br><span class="small">{escape(meaning)}</span></div>'
    )


def _film(file: Path, row: Mapping[str, Any]) -> str:
    mode = row.get("mode", row.get("way"))  # "way" in results of earlier releases
    mode = f", mode {mode}" if mode else ""
    says = escape(f"seed {row['seed']}: score {row['score']:.3f} after {row['steps']} steps{mode}")
    source = _data(file, "video/mp4")
    return f'<figure><video controls muted loop src="{source}"></video><figcaption>{says}</figcaption></figure>'


def _data(file: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
