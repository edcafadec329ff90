"""Measure how often each environment's expert succeeds, and in how many steps:

python scripts/evaluate_experts.py --episodes 200 --workers 2 --out docs/results/experts.json
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from diffpolicy.envs.experts import EXPERTS
from diffpolicy.evaluation import wilson
from diffpolicy.evaluation.report import provenance, write_json
from diffpolicy.evaluation.rollout import REPORT_SEED
from diffpolicy.scripts.make_demos import demonstrate


def length(seed: int, env_id: str) -> int | None:
    """Steps that the expert took in the episode of `seed`; None if it did not succeed."""
    episode = demonstrate(env_id, {}, seed)
    return None if episode is None else len(episode["action"])


def measure(env_id: str, episodes: int, first: int, workers: int) -> dict[str, Any]:
    """Success with its interval, the steps of the successes, and the seeds of the failures."""
    seeds = range(first, first + episodes)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        found = pool.map(functools.partial(length, env_id=env_id), seeds)
        steps = list(tqdm(found, env_id, episodes, unit="episode", leave=False))
    done = [count for count in steps if count is not None]
    low, median, high = np.percentile(done, [5, 50, 95]).tolist() if done else (None, None, None)
    return {
        "success": wilson(len(done), episodes),
        "steps": {"5%": low, "50%": median, "95%": high},
        "failed_seeds": [seed for seed, count in zip(seeds, steps, strict=True) if count is None],
        "episodes": episodes,
        "first_seed": first,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=REPORT_SEED, help=f"the first (default {REPORT_SEED})")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    arguments = parser.parse_args()
    if min(arguments.episodes, arguments.workers) < 1 or arguments.seed < 0:
        parser.error("--episodes and --workers are at least 1, --seed at least 0")
    result = {id: measure(id, arguments.episodes, arguments.seed, arguments.workers) for id in EXPERTS}
    for name, row in result.items():
        rate = row["success"]
        print(
            f"{name}: success {rate['mean']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}] of {row['episodes']}, "
            f"half of them within {row['steps']['50%']:g} steps"
        )
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out, {"experts": result, **provenance()})


if __name__ == "__main__":
    main()
