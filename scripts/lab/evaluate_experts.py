"""Measure how often the expert of each of our environments succeeds, and in how many steps.

python scripts/lab/evaluate_experts.py --episodes 200 --workers 2 --out docs/results/experts.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from diffpolicy.config.commands import REPORT_SEED
from diffpolicy.envs import ENVIRONMENTS
from diffpolicy.evaluation import ExpertAgent, episode_resets, make_env, rollout
from diffpolicy.evaluation.report import provenance
from diffpolicy.util.files import write_json
from diffpolicy.util.stats import wilson
from text_tables import PERCENT, interval


def measure(env_id: str, episodes: int, first: int, workers: int) -> dict[str, Any]:
    """Return success with its interval, the steps of the successes, and the seeds of the failures."""
    agent, resets = ExpertAgent(env_id), episode_resets(first, episodes)
    workers = workers if workers > 1 else 0
    rolled_out = rollout(agent, make_env(env_id), resets, envs=1, workers=workers, progress=True)
    done = [episode.steps for episode in rolled_out if episode.success_at_end]
    low, median, high = np.percentile(done, [5, 50, 95]).tolist() if done else (None, None, None)
    return {
        "success": wilson(len(done), episodes),
        "steps": {"5%": low, "50%": median, "95%": high},
        "failed_seeds": [episode.seed for episode in rolled_out if not episode.success_at_end],
        "episodes": episodes,
        "first_seed": first,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=200, help="per environment (default: 200)")
    parser.add_argument("--seed", type=int, default=REPORT_SEED, help=f"the first (default: {REPORT_SEED})")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if min(arguments.episodes, arguments.workers) < 1 or arguments.seed < 0:
        parser.error("--episodes and --workers are at least 1, --seed at least 0")
    counts = (arguments.episodes, arguments.seed, arguments.workers)
    result = {env_id: measure(env_id, *counts) for env_id, *_ in ENVIRONMENTS}
    for env_id, found in result.items():
        rate, steps = interval(found["success"], PERCENT), found["steps"]["50%"]
        print(f"{env_id}: success {rate} of {found['episodes']}, half of them within {steps:g} steps")
    if arguments.out:
        write_json(arguments.out, {"experts": result, **provenance()})


if __name__ == "__main__":
    main()
