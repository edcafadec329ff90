"""What costs do to a policy: how many episodes enter a region, with what success, and at how many network calls.

python scripts/lab/study_costs.py RUN --center 140 340 --radius 100

Every row is the same policy on the same fresh seeds, with other `execution.costs`. A region is a ball in the first
numbers of the actions, and of the observations, which have to be the place of what the actions move; an episode
enters it where an observed place lies inside.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffpolicy import Agent, checkpoint, load_policy
from diffpolicy.config import ExecutionConfig, load_config
from diffpolicy.evaluation import INFERENCE_BLOCK, Observations, episode_resets, policy_env, rollout, summarize
from diffpolicy.evaluation.episode import episode_rows
from diffpolicy.evaluation.evaluate import check_policy
from diffpolicy.evaluation.report import provenance
from diffpolicy.util import files
from diffpolicy.util.errors import require
from diffpolicy.util.stats import bootstrap, wilson
from text_tables import PERCENT, interval, markdown

OUT = Path(__file__).resolve().parents[2] / "docs" / "results" / "costs.json"
FIRST_SEED = 200_000
KEPT = ("seed", "success", "mode", "nearest", "entered")


def variants(center: list[float], radius: float, margins: list[float]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows: name -> costs; the middle one of the margins in several ways."""
    dims, found = list(range(len(center))), {"none": []}

    def ball(margin: float, **how: Any) -> dict[str, Any]:
        return {"name": "keep_out", "center": center, "radius": radius + margin, "dims": dims, **how}

    middle = sorted(margins)[len(margins) // 2]
    for margin in margins:
        found[f"margin {margin:g}"] = [ball(margin)]
        if margin == middle:
            found[f"margin {margin:g}, weight 0.3"] = [ball(margin, weight=0.3)]
            found[f"margin {margin:g}, from t = 0.5 on"] = [ball(margin, start=0.5)]
            found[f"margin {margin:g}, hard"] = [ball(margin, hard=True)]
            found[f"margin {margin:g}, and smooth"] = [ball(margin), {"name": "smooth", "weight": 0.5}]
    return found


def measured(costs: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Return what some episodes of the policy under these costs give, and each of them."""
    policy = load_policy(options.run, block=INFERENCE_BLOCK, execution=ExecutionConfig(costs=costs))
    make_env = policy_env(load_config(checkpoint.read(options.run).config))
    task = check_policy(policy, make_env)
    first = list(range(len(options.center)))
    given = f"{task.follows} as the observed numbers that follow the actions"
    require(list(task.follows)[: len(first)] == first, given, f"{first}, whose region is told by --center")
    agent, resets = Agent(policy), episode_resets(FIRST_SEED, options.episodes, task)
    seen = [Observations()]
    episodes = rollout(agent, make_env, resets, seen, workers=options.workers, task=task, progress=True)
    rows, center = episode_rows(episodes), np.array(options.center)
    for row, episode in zip(rows, episodes, strict=True):
        places = np.array(episode.observed[Observations.name])[:, : len(center)]
        nearest = float(np.linalg.norm(places - center, axis=1).min())
        row |= {"nearest": nearest, "entered": nearest < options.radius}
    kept = [{name: row[name] for name in KEPT if name in row} for row in rows]
    return {"costs": costs, "success": summarize(rows)["success"], "episodes": kept, "network_calls": agent.calls}


def table(found: Mapping[str, Any]) -> str:
    """Return the Markdown table of costs.json; the rows are paired with the first one."""
    rows, lines = found["rows"], []
    for row in rows:
        entered = [episode["entered"] for episode in row["episodes"]]
        share = wilson(sum(entered), len(entered))
        modes = [episode.get("mode") or "none" for episode in row["episodes"]]
        pairs = zip(row["episodes"], rows[0]["episodes"], strict=True)
        apart = [float(a["success"]) - float(b["success"]) for a, b in pairs]
        lines.append(
            [
                row["name"],
                interval(share, PERCENT),
                interval(row["success"], PERCENT),
                "" if row is rows[0] else interval(bootstrap(apart), "{:+.1%}"),
                ", ".join(f"{mode} {modes.count(mode) / len(modes):.0%}" for mode in sorted(set(modes))),
                str(row["network_calls"]),
            ]
        )
    return markdown("costs | entered | success | paired difference | ways | network calls", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--center", type=float, nargs="+", required=True)
    parser.add_argument("--radius", type=float, required=True)
    parser.add_argument(
        "--margins", type=float, nargs="+", default=[20.0, 40.0, 60.0], help="that costs keep off the region"
    )
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    saved = checkpoint.read(options.run)
    of = {
        "policy": saved.sha256["ema.safetensors"],
        "episodes": options.episodes,
        "first_seed": FIRST_SEED,
        "center": options.center,
        "radius": options.radius,
    }
    stored = json.loads(options.out.read_text()) if options.out.exists() else {"of": of, "config": saved.config}
    require(stored["of"] == of, f"{options.out} is of {stored['of']}", str(of), "take another --out")
    rows = {row["name"]: row for row in stored.get("rows", ())}
    for name, costs in variants(options.center, options.radius, options.margins).items():
        if name not in rows:
            rows[name] = {"name": name, **measured(costs, options)}
            files.write_json(options.out, {**stored, **provenance(), "rows": list(rows.values())})
    print(table({"rows": list(rows.values())}))


if __name__ == "__main__":
    main()
