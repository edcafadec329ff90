"""Write the README's table of results from docs/results/*/*/evaluation.json: `python scripts/results_table.py`.

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
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
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


def _interval(value: dict[str, Any], percent: bool = False) -> str:
    form = "{:.0%}" if percent else "{:.3f}"
    mean, low, high = (form.format(value[key]) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    wanted = f"{before}{BEGIN}\n{table(ROOT / 'docs' / 'results')}\n{END}{after}"
    if arguments.check:
        sys.exit(0 if wanted == text else "README.md differs from docs/results: run python scripts/results_table.py")
    readme.write_text(wanted)


if __name__ == "__main__":
    main()
