"""Whether a policy that is not sure fails more often: success by how far its sampled chunks are apart.

python scripts/lab/study_doubt.py RUN

A chunk's spread is that of its candidates, see `policies.doubt`; an episode's doubt is the mean of its chunks'. The
most certain half is compared with the other, and thresholds of a chunk's spread say how many episodes would have
asked, and how often those succeed that would not.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
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
FIRST_SEED = 200_000
PARTS = 5
ASKING = (0.5, 0.25, 0.1, 0.05)  # shares of the chunks that are above a threshold


def parts(episodes: Sequence[Mapping[str, Any]], count: int) -> list[list[Mapping[str, Any]]]:
    """Return episodes in `count` equal parts, the most certain first."""
    ordered = sorted(episodes, key=lambda one: (np.mean(one["spread"]), one["seed"]))
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


def told_apart(episodes: Sequence[Mapping[str, Any]]) -> float:
    """Return the probability that an episode that failed had more doubt than one that did not."""
    failed, done = ([np.mean(e["spread"]) for e in episodes if e["success"] is flag] for flag in (False, True))
    pairs = np.array(failed)[:, None] - np.array(done)[None]
    return float((pairs > 0).mean() + (pairs == 0).mean() / 2) if pairs.size else float("nan")


def table(found: Mapping[str, Any]) -> str:
    """Return the Markdown tables of a result."""
    episodes = found["episodes"]
    lines = [
        [
            f"{k + 1} of {PARTS}",
            f"{np.mean(part[0]['spread']):.3f} to {np.mean(part[-1]['spread']):.3f}",
            interval(success(part), PERCENT),
        ]
        for k, part in enumerate(parts(episodes, PARTS))
    ]
    sure, unsure = parts(episodes, 2)
    difference = interval(apart(sure, unsure), "{:+.1%}")
    says = f"The most certain half succeeds in {interval(success(sure), PERCENT)}, the other in "
    says += (
        f"{interval(success(unsure), PERCENT)}: {difference}. An episode that failed had more doubt than one that "
    )
    says += f"succeeded with a probability of {told_apart(episodes):.2f}."
    every = np.concatenate([one["spread"] for one in episodes])
    asking = []
    for share in ASKING:
        above = float(np.quantile(every, 1 - share))
        silent = [one for one in episodes if max(one["spread"]) <= above]
        rest = interval(success(silent), PERCENT) if silent else "none"
        asked = f"{1 - len(silent) / len(episodes):.0%}"
        asking.append([f"{above:.3f}", f"{share:.0%}", asked, rest])
    first = markdown("episodes, most certain first | mean spread | success", lines)
    second = markdown("ask above | of all chunks | episodes that ask | success of the others", asking)
    return f"{first}\n\n{says}\n\n{second}"


def draw(found: Mapping[str, Any], file: Path) -> None:
    """Draw success by doubt."""
    matplotlib.rcParams["font.size"] = 9
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.subplots()
    for part in parts(found["episodes"], PARTS):
        at, share = np.mean([np.mean(one["spread"]) for one in part]), success(part)
        ends = [[share["mean"] - share["low"]], [share["high"] - share["mean"]]]
        axes.errorbar([at], [share["mean"]], yerr=ends, fmt="o", color="#1f6fb4", capsize=3)
    axes.set(xlabel="mean spread of an episode's candidates", ylabel="success", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--episodes", type=int, default=500)
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
    resets = episode_resets(FIRST_SEED, options.episodes, task)
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
    of = {"policy": saved.sha256["ema.safetensors"], "episodes": options.episodes, "first_seed": FIRST_SEED}
    found = {"of": of | {"candidates": options.candidates}, "config": saved.config, "episodes": episodes}
    files.write_json(options.out / f"{options.name}.json", found | provenance())
    draw(found, options.out / f"{options.name}.png")
    print(table(json.loads(json.dumps(found))))


if __name__ == "__main__":
    main()
