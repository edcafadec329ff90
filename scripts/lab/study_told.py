"""How often a policy does what it is told, by phrasing and by scale of guidance.

python scripts/lab/study_told.py RUN --evaluations runs/told

Evaluates on the same fresh seeds with the phrasings of the demonstrations and with held-out ones, whose instructions
the environment draws; an evaluation that is there already is read.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffpolicy import checkpoint
from diffpolicy.evaluation.report import provenance
from diffpolicy.util import files
from diffpolicy.util.stats import wilson
from runs import evaluated, kept
from text_tables import PERCENT, interval, markdown

OUT = Path(__file__).resolve().parents[2] / "docs" / "results" / "told.json"
ASKED = (("taught", (0.0, 1.0, 1.5, 2.0, 3.0)), ("held_out", (1.0, 1.5, 2.0, 3.0)))
SAYS = {"taught": "as in demonstrations", "held_out": "held out"}


def table(found: Mapping[str, Any]) -> str:
    """Return the Markdown table of told.json."""
    lines = []
    for row in found["rows"]:
        episodes = row["episodes"]
        shares = []
        for flag in ("obeyed", "success"):
            shares.append(interval(wilson(sum(int(one[flag]) for one in episodes), len(episodes)), PERCENT))
        ways = [one["mode"] or "none" for one in episodes]
        says = ", ".join(f"{way} {ways.count(way) / len(ways):.0%}" for way in sorted(set(ways)))
        lines.append([SAYS[row["phrasings"]], f"{row['guidance']:g}", *shares, says, str(row["network_calls"])])
    return markdown("words | w | way asked for | success in that way | ways | network calls", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--evaluations", type=Path, required=True, help="folder of the evaluations")
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    saved, rows = checkpoint.read(options.run), []
    for phrasings, scales in ASKED:
        for scale in scales:
            folder = options.evaluations / f"e_{phrasings}_{scale:g}"
            how = {"execution": {"guidance": {"task": scale}}}
            how["env"] = {"kwargs": {"told": True, "phrasings": phrasings}}
            found = evaluated(saved, folder, options.episodes, options.workers, **how)
            episodes = kept(found, "obeyed", "success", "mode")
            rows.append({"phrasings": phrasings, "guidance": scale, "episodes": episodes})
            rows[-1] |= {"network_calls": found["network_calls"]}
    of = {"policy": saved.sha256["ema.safetensors"], "config": saved.config}
    files.write_json(options.out, {"of": of, "rows": rows, **provenance()})
    print(table({"rows": rows}))


if __name__ == "__main__":
    main()
