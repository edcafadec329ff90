"""Replay the human Push-T demonstrations in the environment, as recorded and aligned with the goal.

python scripts/lab/replay_demonstrations.py --out docs/results/replays.json

People stopped short of success; an aligned copy of a demonstration has what it reached as its goal.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from diffpolicy.config import DatasetConfig, ObservationConfig, RunConfig
from diffpolicy.datasets import load_demonstrations
from diffpolicy.evaluation import ReplayAgent, Reset, make_env, rollout, summarize
from diffpolicy.evaluation.report import provenance
from diffpolicy.util.files import write_json
from text_tables import PERCENT, interval


def replay(aligned: bool) -> dict[str, Any]:
    """Return the metrics, with intervals, of all demonstrations replayed from their first states.

    An episode ends with its demonstration, or on success.
    """
    data = DatasetConfig(name="pusht", transforms=["align"] if aligned else [])
    demonstrations = load_demonstrations(RunConfig(dataset=data, observation=ObservationConfig("state")))
    parts = demonstrations.episode_slices()
    actions = {number: demonstrations["action"][part] for number, part in enumerate(parts)}
    resets = [
        Reset(number, options={"state": demonstrations["obs"][part][0]}, limit=len(actions[number]))
        for number, part in enumerate(parts)
    ]
    made = make_env("diffpolicy/PushT-v0", {"obs_mode": "state"}, max_steps=10_000)
    episodes = rollout(ReplayAgent(actions), made, resets, envs=1, progress=True)
    return {"episodes": len(episodes), **summarize([episode.row() for episode in episodes])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    result = {name: replay(aligned) for name, aligned in (("recorded", False), ("aligned", True))}
    for name, found in result.items():
        score, success = interval(found["score"]), interval(found["success"], PERCENT)
        print(f"{name}: score {score}, success {success} of {found['episodes']}")
    if arguments.out:
        write_json(arguments.out, {"replays": result, **provenance()})


if __name__ == "__main__":
    main()
