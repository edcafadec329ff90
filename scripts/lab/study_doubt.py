"""Whether a policy that is not sure fails more often: success by how far its sampled chunks are apart.

python scripts/lab/study_doubt.py RUN

A chunk's spread is that of its candidates, see `policies.doubt`. Of one chunk it says little: where there are several
good ways, candidates scatter, too. An episode's doubt is therefore the least spread of its first `EARLY` chunks,
which all but the fastest episodes have; over all of its chunks it would tell how long an episode took, and those that
fail take longest. The most certain half is compared with the other, and the mean of the same chunks stands beside it.
Thresholds say how many episodes would have asked after so many chunks in a row above them, and how often those
succeed that would not.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from diffpolicy import Agent, checkpoint, load_policy
from diffpolicy.config import ExecutionConfig, load_config
from diffpolicy.evaluation import INFERENCE_BLOCK, Spread, episode_resets, policy_env, rollout
from diffpolicy.evaluation.evaluate import check_policy
from diffpolicy.evaluation.report import provenance
from diffpolicy.util import files
from diffpolicy.util.stats import Interval, wilson
from text_tables import PERCENT, interval, markdown

OUT = Path(__file__).resolve().parents[2] / "docs" / "results"
FIRST_SEED = 300_000  # those from 200000 on were used to choose the signal
PARTS = 5
EARLY = 8  # chunks
IN_A_ROW = (1, 8)
ASKING = (0.5, 0.25, 0.1)  # shares of the episodes that would ask
Doubt = Callable[[Mapping[str, Any]], float]


def least(episode: Mapping[str, Any]) -> float:
    return float(np.min(episode["spread"][:EARLY]))


def mean(episode: Mapping[str, Any]) -> float:
    return float(np.mean(episode["spread"][:EARLY]))


def reached(episode: Mapping[str, Any], count: int) -> float:
    """Return the highest threshold above which `count` chunks in a row were."""
    spread = episode["spread"]
    rows = [min(spread[k : k + count]) for k in range(len(spread) - count + 1)]
    return max(rows, default=0.0)


def parts(episodes: Sequence[Mapping[str, Any]], count: int, doubt: Doubt = least) -> list[list[Mapping[str, Any]]]:
    """Return episodes in `count` equal parts, the most certain first."""
    ordered = sorted(episodes, key=lambda one: (doubt(one), one["seed"]))
    return [[ordered[k] for k in part] for part in np.array_split(np.arange(len(ordered)), count)]


def success(episodes: Sequence[Mapping[str, Any]]) -> Interval:
    return wilson(sum(one["success"] for one in episodes), len(episodes))


def apart(sure: Sequence[Mapping[str, Any]], unsure: Sequence[Mapping[str, Any]]) -> Interval:
    """Return by how much the first succeed more often, with a bootstrap interval over episodes of both."""
    draw = np.random.default_rng(0)
    one, other = (np.array([float(e["success"]) for e in part]) for part in (sure, unsure))
    drawn = [draw.choice(one, len(one)).mean() - draw.choice(other, len(other)).mean() for _ in range(10_000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"mean": float(one.mean() - other.mean()), "low": float(low), "high": float(high)}


def told_apart(episodes: Sequence[Mapping[str, Any]], doubt: Doubt) -> float:
    """Return the probability that an episode that failed had more doubt than one that did not."""
    failed, done = ([doubt(e) for e in episodes if e["success"] is flag] for flag in (False, True))
    pairs = np.array(failed)[:, None] - np.array(done)[None]
    return float((pairs > 0).mean() + (pairs == 0).mean() / 2) if pairs.size else float("nan")


def table(found: Mapping[str, Any]) -> str:
    """Return the Markdown tables of a result."""
    episodes = found["episodes"]
    lines = [
        [f"{k + 1} of {PARTS}", f"{least(part[0]):.4f} to {least(part[-1]):.4f}", interval(success(part), PERCENT)]
        for k, part in enumerate(parts(episodes, PARTS))
    ]
    halves = []
    for name, doubt in (("least", least), ("mean", mean)):
        sure, unsure = parts(episodes, 2, doubt)
        shares = [interval(success(part), PERCENT) for part in (sure, unsure)]
        halves.append([name, *shares, interval(apart(sure, unsure), "{:+.1%}"), f"{told_apart(episodes, doubt):.2f}"])
    asking = []
    for count in IN_A_ROW:
        levels = sorted(reached(one, count) for one in episodes)
        for share in ASKING:
            above = levels[min(round(len(levels) * (1 - share)), len(levels)) - 1]
            sides = [[one for one in episodes if (reached(one, count) > above) is asks] for asks in (True, False)]
            cells = [interval(success(side), PERCENT) if side else "none" for side in sides]
            asking.append([str(count), f"{above:.4f}", f"{len(sides[0]) / len(episodes):.0%}", *cells])
    tables = [
        markdown(f"episodes, most certain first | least spread of {EARLY} chunks | success", lines),
        markdown(
            f"of the first {EARLY} chunks | most certain half | other half | difference | failed has more doubt",
            halves,
        ),
        markdown("chunks in a row | above | episodes that ask | of these succeed | of the others", asking),
    ]
    return "\n\n".join(tables)


def draw(found: Mapping[str, Any], file: Path) -> None:
    """Draw success by doubt."""
    matplotlib.rcParams["font.size"] = 9
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.subplots()
    for part in parts(found["episodes"], PARTS):
        at, share = np.mean([least(one) for one in part]), success(part)
        ends = [[share["mean"] - share["low"]], [share["high"] - share["mean"]]]
        axes.errorbar([at], [share["mean"]], yerr=ends, fmt="o", color="#1f6fb4", capsize=3)
    axes.set(xlabel=f"least spread of an episode's first {EARLY} chunks", ylabel="success", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--name", default="doubt")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    saved = checkpoint.read(options.run)
    how = ExecutionConfig(candidates=options.candidates)
    policy = load_policy(saved.path, block=INFERENCE_BLOCK, execution=how)
    make_env = policy_env(load_config(saved.config))
    task = check_policy(policy, make_env)
    resets = episode_resets(options.first_seed, options.episodes, task)
    rolled = rollout(Agent(policy), make_env, resets, [Spread()], workers=options.workers, task=task, progress=True)
    episodes = [
        {
            "seed": one.seed,
            "success": bool(one.success),
            "spread": [round(float(s), 5) for s in one.observed["spread"]],
        }
        for one in rolled
        if one.error is None
    ]
    of = {"policy": saved.sha256["ema.safetensors"], "episodes": options.episodes, "first_seed": options.first_seed}
    found = {"of": of | {"candidates": options.candidates}, "config": saved.config, "episodes": episodes}
    files.write_json(options.out / f"{options.name}.json", found | provenance())
    draw(found, options.out / f"{options.name}.png")
    print(table(json.loads(json.dumps(found))))


if __name__ == "__main__":
    main()
