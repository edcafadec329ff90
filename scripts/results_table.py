"""Write the README's tables from the raw results under docs/results: `python scripts/results_table.py`.

The minutes are those of the training, from its log beside them.

`--check` only says whether the README agrees with them (exit status 1 if not).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HUMAN_DEMONSTRATIONS = 206
STATES = {"paper": "the paper's 50", "fresh": "200 fresh"}


def table(results: Path) -> str:
    """The Markdown table of every evaluation below `results`."""
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
        link = f"[{run}](docs/results/{file.parent.parent.name}/{file.parent.name}/evaluation.json)"
        cells = [
            link,
            str(data["episodes"] or f"{HUMAN_DEMONSTRATIONS - held_out} (+{held_out} held out)"),
            "yes" if data.get("mirror") else "no",
            STATES[file.parent.name],
            _interval(result["score"]),
            _interval(result["final_coverage"]),
            _interval(result["success"], percent=True),
            str(result["network_calls"]),
            f"{json.loads(log[-1])['seconds'] / 60:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _interval(value: dict[str, Any], percent: bool = False, digits: int = 0) -> str:
    form = f"{{:.{digits}%}}" if percent else "{:.3f}"
    mean, low, high = (form.format(value[key]) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def ways_table(results: Path) -> str:
    """The Markdown table of every measurement of ways."""
    lines = [
        "| task, policy | starts | success | ways: demonstrations | rollouts | distance |",
        "|---|---|---|---|---|---|",
    ]
    for file in sorted((results / "ways").glob("*/ways.json")):
        result = json.loads(file.read_text())
        link = f"[{file.parent.name.replace('_', ', ')}](docs/results/ways/{file.parent.name}/ways.json)"
        for where, starts in (("all_starts", "all"), ("fixed_start", "one")):
            found = result[where]
            success = _interval(found["success"], percent=True)
            shares = [_shares(found[who]["shares"]) for who in ("demonstrations", "rollouts")]
            cells = [link, starts, success, *shares, f"{found['total_variation']:.3f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def experts_table(results: Path) -> str:
    """The Markdown table of the experts."""
    experts = json.loads((results / "experts.json").read_text())["experts"]
    lines = ["| expert | success, 200 seeds | steps, median [5%, 95%] |", "|---|---|---|"]
    for name, row in experts.items():
        steps = row["steps"]
        spread = f"{steps['50%']:.0f} [{steps['5%']:.0f}, {steps['95%']:.0f}]"
        lines.append(f"| `{name}` | {_interval(row['success'], percent=True, digits=1)} | {spread} |")
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


def _shares(shares: dict[str, float]) -> str:
    return ", ".join(f"{way} {share:.0%}" for way, share in shares.items() if way != "none" or share)


TABLES = {"results": table, "ways": ways_table, "experts": experts_table, "speed": speed_table}
"""Each stands in the README between its two markers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    readme = ROOT / "README.md"
    wanted = text = readme.read_text()
    for name, make in TABLES.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, rest = wanted.split(begin)
        wanted = f"{before}{begin}\n{make(ROOT / 'docs' / 'results')}\n{end}{rest.split(end)[1]}"
    if arguments.check:
        sys.exit(0 if wanted == text else "README.md differs from docs/results: run python scripts/results_table.py")
    readme.write_text(wanted)


if __name__ == "__main__":
    main()
