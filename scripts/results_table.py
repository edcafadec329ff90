"""Write the tables of README.md and docs from the raw results: `python scripts/results_table.py`.

The minutes are those of the training, from its log beside them.

`--check` only says whether the pages agree with docs/results (exit status 1 if not).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffpolicy.scripts import image_tables
from diffpolicy.scripts.comparison import tables as comparison
from diffpolicy.scripts.comparison.store import read_rows
from diffpolicy.scripts.image_tables import interval, markdown

ROOT = Path(__file__).resolve().parent.parent
HUMAN_DEMONSTRATIONS = 206
STATES = {"paper": "the paper's 50", "fresh": "200 fresh"}


def table(results: Path) -> str:
    """The Markdown table of every evaluation below `results` that is no row of the comparison."""
    lines = [
        "| run | demonstrations | mirrored | initial states | score | final | success | calls | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for file in sorted(results.glob("pusht_*/*/evaluation.json")):
        result = json.loads(file.read_text())
        run = file.parent.parent.name.removeprefix("pusht_")
        data = result["checkpoint"]["config"]["dataset"]
        log = (file.parent.parent / "metrics.jsonl").read_text().splitlines()
        held_out = round(data["validation"] * HUMAN_DEMONSTRATIONS)
        link = f"[{run}]({file.parent.parent.name}/{file.parent.name}/evaluation.json)"
        cells = [
            link,
            str(data["episodes"] or f"{HUMAN_DEMONSTRATIONS - held_out} (+{held_out} held out)"),
            "yes" if data.get("mirror") else "no",
            STATES[file.parent.name],
            interval(result["score"]),
            interval(result["final_coverage"]),
            interval(result["success"], percent=True),
            str(result["network_calls"]),
            f"{json.loads(log[-1])['seconds'] / 60:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def experts_table(results: Path) -> str:
    """The Markdown table of the experts."""
    experts = json.loads((results / "experts.json").read_text())["experts"]
    lines = ["| expert | success, 200 seeds | steps, median [5%, 95%] |", "|---|---|---|"]
    for name, row in experts.items():
        steps = row["steps"]
        spread = f"{steps['50%']:.0f} [{steps['5%']:.0f}, {steps['95%']:.0f}]"
        lines.append(f"| `{name}` | {interval(row['success'], percent=True, digits=1)} | {spread} |")
    return "\n".join(lines)


def speed_table(results: Path) -> str:
    """The Markdown table of the environments' speed."""
    found = json.loads((results / "environments.json").read_text())
    lines = ["| Push-T, steps/s on one core | diffpolicy | gym-pusht | ratio [range] |", "|---|---|---|---|"]
    for mode in ("state", "pixels"):
        row = found[mode]
        ours, theirs = (f"{value:,.0f}" for value in row["steps_per_second"].values())
        ratio = "{median:.1f} [{low:.1f}, {high:.1f}]".format(**row["ratio"])
        lines.append(f"| {mode} | {ours} | {theirs} | {ratio} |")
    return "\n".join(lines)


def _benchmark(results: Path, subject: str) -> dict[str, dict[str, Any]]:
    """The cases of a benchmark: what else the file holds, it was measured with."""
    found = json.loads((results / "benchmarks" / f"{subject}.json").read_text())
    return {case: row for case, row in found.items() if isinstance(row, dict) and "ratio" in row}


def _ratio(row: dict[str, Any]) -> str:
    return "{median:.2f} [{low:.2f}, {high:.2f}]".format(**row["ratio"])


def train_step_table(results: Path) -> str:
    """One optimisation step beside the Conv1d peer."""
    rows = []
    for case, row in _benchmark(results, "train_step").items():
        widths, speed = case.split(", ")
        ours, peer = (f"{1e3 * row['seconds'][who]:.0f}" for who in ("ours", "peer"))
        rows.append([widths, f"`{speed}`", ours, peer, _ratio(row), f"{row['first_step_seconds']:.1f}"])
    return markdown("widths | speed | ms | Conv1d, ms | ratio [range] | first step, s", rows)


def changes_table(results: Path) -> str:
    """The step before and after it was made fast."""
    before, now = (_benchmark(results, subject) for subject in ("train_step_before", "train_step"))
    named = {
        "before, bfloat16": before, "before, bfloat16, whole network compiled": before,
        "now, bfloat16": now, "now, bfloat16+blocks": now,
    }  # fmt: skip
    ends = ("", ", compiled", ", bfloat16", ", bfloat16+blocks")
    rows = []
    for (name, found), end in zip(named.items(), ends, strict=True):
        cells = [name]
        for widths in ("64/128/256", "256/512/1024"):
            row = next(row for case, row in found.items() if case.removesuffix(" (auto)") == widths + end)
            cells.append(f"{1e3 * row['seconds']['ours']:.0f} ms, {_ratio(row)}")
        rows.append(cells)
    return markdown("step | 64/128/256: time, ratio to Conv1d | 256/512/1024", rows)


def profile_table(results: Path) -> str:
    """Milliseconds of a step by kind of operation."""
    found = _benchmark(results, "profile")
    kinds = list(next(iter(found.values()))["milliseconds_by_kind"])
    rows = []
    for case, row in found.items():
        times = row["milliseconds_by_kind"]
        floor = f"{row['roofline_milliseconds']:.0f}"
        rows.append([case, *(f"{times[kind]:.1f}" for kind in kinds), f"{sum(times.values()):.0f}", floor])
    return markdown(" | ".join(["case", *kinds, "sum", "roofline"]), rows)


def machine_table(results: Path) -> str:
    """The measured peaks."""
    row = next(iter(_benchmark(results, "profile").values()))
    return markdown("peak | measured", [[name, f"{value:.0f}"] for name, value in row["machine"].items()])


def latency_table(results: Path) -> str:
    """One chunk at batch 1."""
    rows = []
    for case, row in _benchmark(results, "latency").items():
        quantiles = [f"{1e3 * row['chunk_seconds'][q]:.2f}" for q in ("p50", "p95", "p99")]
        peer = f"{1e3 * row['seconds']['peer']:.1f}" if "peer" in row["seconds"] else ""
        rate = f"{row['chunks_per_second']:.0f}"
        rows.append([case, str(row["network_calls"]), *quantiles, rate, peer, _ratio(row)])
    return markdown("case | calls | p50, ms | p95 | p99 | chunks/s | Conv1d + DDIM, ms | ratio [range]", rows)


def evaluate_table(results: Path) -> str:
    """500 episodes, sharded."""
    rows = [
        [
            case,
            f"{row['seconds']['ours']:.0f}",
            f"{row['seconds']['peer']:.0f}",
            _ratio(row),
            str(row["equal_episodes"]),
        ]
        for case, row in _benchmark(results, "evaluate").items()
    ]
    return markdown("case | sharded, s | one process, s | ratio [range] | episodes equal", rows)


def loader_table(results: Path) -> str:
    """Streaming from disk."""
    rows = []
    for case, row in _benchmark(results, "loader").items():
        if "peak_mib" in row:
            peaks = ", ".join(f"{frames} frames: {value:.0f} MiB" for frames, value in row["peak_mib"].items())
            said = f"{peaks}; {row['difference_mib']:+.0f} MiB (of which images at most {row['stated_mib']:.0f})"
        else:
            rates = row["windows_per_second"]
            said = f"{rates['loader']:,.0f} windows/s; the training step takes {rates['training']:,.0f}"
        rows.append([case, said, _ratio(row)])
    return markdown("case | measured | ratio [range]", rows)


def time_table(results: Path) -> str:
    """From the command to a policy."""
    found = json.loads((results / "time_to_score.json").read_text())
    rows = [
        [str(row["seed"]), f"{row['seconds']:.0f}", f"`{row['speed']}`", interval(row["score"]),
         interval(row["success"], percent=True)]
        for row in found["runs"]
    ]  # fmt: skip
    median = found["median"]
    rows.append(["median", f"{median['seconds']:.0f}", "", f"{median['score']:.3f}", ""])
    return markdown("training seed | seconds, everything | speed | score, 200 fresh seeds | success", rows)


def _images(name: str, make: Callable[[Any], str]) -> Callable[[Path], str]:
    """A table of what the image benchmark left."""
    return lambda results: make(json.loads((results / "images" / f"{name}.json").read_text()))


def likelihood_table(results: Path) -> str:
    """Bits per dimension."""
    return image_tables.likelihood(
        {
            run: json.loads(file.read_text())["draws"][0]
            for run in image_tables.RECIPES
            if (file := results / "images" / f"likelihood_{run}.json").exists()
        }
    )


def _compared(name: str) -> Callable[[Path], str]:
    """A table of the comparison."""
    return lambda results: comparison.tables(list(read_rows(results).values()))[name].markdown()


def _in_short(make: Callable[[Any], str]) -> Callable[[Path], str]:
    """A table of the comparison without what only its own page needs."""
    return lambda results: make(list(read_rows(results).values()))


PAGES = {
    "README.md": {
        "images": _images("benchmark", image_tables.recipes),
        "results": _in_short(comparison.summary),
        "ways": _in_short(comparison.ways_summary),
        "experts": experts_table,
        "speed": speed_table,
    },
    "docs/images.md": {
        "recipes": _images("benchmark", image_tables.recipes),
        "grid": _images("benchmark", image_tables.grid),
        "ablation": _images("ablation", image_tables.ablation),
        "likelihood": likelihood_table,
    },
    "docs/results/README.md": {"earlier": table},
    "docs/comparison.md": {name: _compared(name) for name in comparison.NAMES},
    "docs/performance.md": {
        "train_step": train_step_table,
        "changes": changes_table,
        "machine": machine_table,
        "profile": profile_table,
        "time": time_table,
        "latency": latency_table,
        "evaluate": evaluate_table,
        "loader": loader_table,
    },
}
"""Each table stands in its page between its two markers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    for name, tables in PAGES.items():
        page = ROOT / name
        wanted = text = page.read_text()
        for mark, make in tables.items():
            begin, end = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
            before, rest = wanted.split(begin)
            wanted = f"{before}{begin}\n{make(ROOT / 'docs' / 'results')}\n{end}{rest.split(end)[1]}"
        if not arguments.check:
            page.write_text(wanted)
        elif wanted != text:
            sys.exit(f"{name} differs from docs/results: run python scripts/results_table.py")


if __name__ == "__main__":
    main()
