"""Act out the human Push-T demonstrations in the environment, as recorded and aligned with the goal:

python scripts/replay_demonstrations.py --out docs/results/replays.json

Recorded, people stop short of success; what each of them did reach is the goal of its aligned copy, see
`diffpolicy.datasets.pusht.align`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
from tqdm import tqdm

from diffpolicy.datasets import load_pusht
from diffpolicy.evaluation import summarize
from diffpolicy.evaluation.report import provenance, write_json


def replay(aligned: bool) -> dict[str, Any]:
    """Score, final coverage and success, with intervals, of all demonstrations acted out from their first states.

    An episode ends with its demonstration, or on success.
    """
    demonstrations = load_pusht("state", aligned=aligned)
    env = gym.make("diffpolicy.envs:diffpolicy/PushT-v0", obs_mode="state", max_episode_steps=10_000)
    episodes = []
    for part in tqdm(demonstrations.episode_slices(), "aligned" if aligned else "recorded", unit="episode"):
        env.reset(options={"state": demonstrations["obs"][part][0]})
        best = 0.0
        for action in demonstrations["action"][part]:
            _, reward, succeeded, _, info = env.step(action)
            best = max(best, float(reward))
            if succeeded:
                break
        episodes.append({"score": best, "final_coverage": info["coverage"], "success": bool(succeeded)})
    return {"episodes": len(episodes), **summarize(episodes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    arguments = parser.parse_args()
    result = {name: replay(aligned) for name, aligned in (("recorded", False), ("aligned", True))}
    for name, row in result.items():
        score, success = row["score"], row["success"]
        print(
            f"{name}: score {score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}], "
            f"success {success['mean']:.1%} [{success['low']:.1%}, {success['high']:.1%}] of {row['episodes']}"
        )
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out, {"replays": result, **provenance()})


if __name__ == "__main__":
    main()
