"""An evaluation as one page to open in a browser; images and videos are inside the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from diffpolicy.config import LAST, migrate
from diffpolicy.config.words import words
from diffpolicy.evaluation.metrics import PROPORTIONS, SUCCESS, evaluated_env, metric_names
from diffpolicy.evaluation.report.next_steps import NextStep, executed
from diffpolicy.util.files import write_text
from diffpolicy.util.pages import embedded, template

_LARGE = 4  # metrics beside success that are shown large
_ERRORS = 20  # episodes that an environment broke off, which are listed
_TEMPLATES = Path(__file__).parent / "templates"


class Image(NamedTuple):
    """A PNG file with its heading and what it shows."""

    heading: str
    file: Path
    caption: str


class Clip(NamedTuple):
    """An MP4 file and its episode as plain data."""

    file: Path
    episode: Mapping[str, Any]


def write_page(
    path: Path,
    result: Mapping[str, Any],
    images: Sequence[Image] = (),
    videos: Sequence[Clip] = (),
    next_steps: Sequence[NextStep] = (),
    *,
    no_videos: str | None = None,
) -> None:
    """Write the page of an evaluation.

    Args:
        path: of the HTML file.
        result: contents of evaluation.json.
        images: in the order of the page.
        videos: of some episodes.
        next_steps: commands that the page suggests.
        no_videos: why there are none, where there should be some.
    """
    names, env = metric_names(result["episodes"]), evaluated_env(result)
    page = {
        "title": f"{env.get('id') or env.get('factory')}, {len(result['episodes'])} episodes",
        "protocol": _protocol(result),
        "figures": [_figure(name, result) for name in _foremost(names)],
        "others": [_figure(name, result) for name in names if name not in _foremost(names)],
        "has_success": SUCCESS in names,
        "errors": result.get("errors", [])[:_ERRORS],
        "broken_off": len(result.get("errors", [])),
        "images": Markup("").join(image_section(*image) for image in images),
        "videos": _groups(result["episodes"], videos),
        "no_videos": no_videos,
        "next_steps": next_steps,
        "made_with": {"commit": result["commit"], "processor": result["processor"], **result["versions"]},
    }
    write_text(path, template(_TEMPLATES, "evaluation.html.j2").render(page))


def write_document(path: Path, title: str, parts: Sequence[str]) -> None:
    """Write pieces of HTML as one page in this project's style."""
    write_text(path, template(_TEMPLATES, "document.html.j2").render(title=title, body=Markup("".join(parts))))


def image_section(heading: str, file: Path, caption: str) -> Markup:
    """Return the HTML of a PNG file, inside the page, with its heading and caption."""
    content = {"heading": heading, "source": embedded(file, "image/png"), "caption": caption}
    return Markup(template(_TEMPLATES, "image.html.j2").render(content))


def number(value: float) -> str:
    """Return a number as people read it."""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def _protocol(result: Mapping[str, Any]) -> str:
    checkpoint, settings = result["checkpoint"], result["settings"]
    data, seeds, sampler = checkpoint["config"]["dataset"], settings["seeds"], settings.get("sampler")
    drawn = f"; solver {sampler['solver']}, {sampler['steps']} steps" if sampler else ""
    how = "".join(f", {word}" for word in words(executed(settings)))
    states = f"seeds from {seeds} on" if str(seeds).isdigit() else f"the task's seeds {seeds!r}"
    choose = migrate(checkpoint["config"])["training"].get("choose", LAST)
    by = (
        ""
        if choose == LAST
        else f"; the run ranks checkpoints by their {choose.replace('_', ' ')} on seeds of its own"
    )
    return (
        f"Trained for {checkpoint['step']} steps on {data['path'] or data['name']}{by}. Initial states: {states}"
        f"{drawn}{how}; {result['network_calls']} network calls per chunk of actions."
        f"{' The environment was given by hand.' if evaluated_env(result).get('given_by_hand') else ''}"
    )


def _foremost(names: Sequence[str]) -> list[str]:
    """The metrics that are shown large: success, and the first others; a table has the rest."""
    others = [name for name in names if name not in PROPORTIONS]
    return [name for name in names if name in PROPORTIONS or name in others[:_LARGE]]


def _figure(name: str, result: Mapping[str, Any]) -> dict[str, str]:
    shown = "{:.0%}".format if name in PROPORTIONS else number
    described = result.get("metrics", {}).get(name, {}).get("description", "")
    interval = {key: shown(result[name][key]) for key in ("mean", "low", "high")}
    return {"name": name.replace("_", " "), "description": described, **interval}


def _groups(episodes: Sequence[Mapping[str, Any]], videos: Sequence[Clip]) -> list[dict[str, Any]]:
    """The videos under headings: successes and failures where the task knows them."""
    if SUCCESS not in metric_names(episodes):
        return [{"heading": "Videos", "videos": [_captioned(clip) for clip in videos]}]
    groups = []
    for heading, wanted in (("Successes", True), ("Failures", False)):
        count = sum(bool(one[SUCCESS]) is wanted for one in episodes)
        chosen = [_captioned(clip) for clip in videos if bool(clip.episode[SUCCESS]) is wanted]
        groups.append({"heading": f"{heading}: {count} of {len(episodes)}", "videos": chosen})
    return groups


def _captioned(clip: Clip) -> dict[str, str]:
    episode = clip.episode
    values = ", ".join(f"{name.replace('_', ' ')} {number(episode[name])}" for name in metric_names([episode])[:1])
    mode = f", mode {episode['mode']}" if episode.get("mode") else ""
    caption = f"seed {episode['seed']}: {values} after {episode['steps']} steps{mode}"
    return {"source": embedded(clip.file, "video/mp4"), "caption": caption}
