"""How often a policy does what it is told, by phrasing and by scale of guidance.

python scripts/lab/study_told.py RUN --evaluations runs/told

Evaluates on the same fresh seeds with the phrasings of the demonstrations and with held-out ones, whose instructions
the environment draws; an evaluation that is there already is read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffpolicy import checkpoint, evaluate_policy
from diffpolicy.evaluation.report import provenance
from diffpolicy.util import files
from diffpolicy.util.errors import require
from diffpolicy.util.stats import wilson
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
            if (folder / "evaluation.json").exists():
                found = json.loads((folder / "evaluation.json").read_text())
                same = found["checkpoint"]["sha256"]["ema.safetensors"] == saved.sha256["ema.safetensors"]
                same = same and len(found["episodes"]) == options.episodes and found["settings"]["seeds"] == 200_000
                require(same, f"{folder} is of another checkpoint or other seeds", cure="take another --evaluations")
            else:
                found = evaluate_policy(
                    saved.path,
                    folder,
                    episodes=options.episodes,
                    workers=options.workers,
                    videos=0,
                    execution={"guidance": {"task": scale}},
                    env={"kwargs": {"told": True, "phrasings": phrasings}},
                )
            kept = [{name: one[name] for name in ("seed", "obeyed", "success", "mode")} for one in found["episodes"]]
            rows.append({"phrasings": phrasings, "guidance": scale, "episodes": kept})
            rows[-1] |= {"network_calls": found["network_calls"]}
    of = {"policy": saved.sha256["ema.safetensors"], "config": saved.config}
    files.write_json(options.out, {"of": of, "rows": rows, **provenance()})
    print(table({"rows": rows}))


if __name__ == "__main__":
    main()
