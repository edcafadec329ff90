"""Print a table that shows whether a change of the code changed its numbers.

    python scripts/lab/same_numbers.py train OUT            short trainings, the SHA-256 of their averaged weights
    python scripts/lab/same_numbers.py evaluate OUT RUN…    50 episodes each, the SHA-256 of their results

Run it at two commits on one machine and compare what it prints. It uses nothing of the package but its commands, so
that the same file measures both sides; `--train` and `--evaluate` say how the commands are called.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import subprocess
from pathlib import Path

TRAININGS = {
    "pusht_expert flow": ["task=pusht_expert", "method=flow", "training.steps=200"],
    "pusht_expert ddpm": ["task=pusht_expert", "method=ddpm", "training.steps=200"],
    "pusht_expert mean_flow": ["task=pusht_expert", "method=mean_flow", "training.steps=200"],
    "pusht_expert regression": ["task=pusht_expert", "method=regression", "training.steps=200"],
    "mnist": ["task=mnist", "training.steps=60"],
    "pusht_pixels": ["task=pusht_pixels", "training.steps=60"],
}
COMMON = ["speed=float32", "seed=0", "device=cpu"]
FEW_ROLLOUTS = ["evaluation_episodes=4"]
EPISODE = ("seed", "score", "final_coverage", "success", "steps")


def run_dir(out: Path, name: str) -> Path:
    return out / name.replace(" ", "_")


def train(command: list[str], out: Path) -> None:
    for name, settings in TRAININGS.items():
        folder = run_dir(out, name)
        if not (folder / "checkpoints").exists():
            rollouts = [] if name == "mnist" else FEW_ROLLOUTS
            call([*command, *settings, *COMMON, *rollouts, f"run_dir={folder}"])
        last = sorted((folder / "checkpoints").glob("step_*"))[-1]
        print(f"{name:26} {last.name}  {digest((last / 'ema.safetensors').read_bytes())}", flush=True)


def evaluate(command: list[str], out: Path, checkpoints: list[Path], settings: list[str]) -> None:
    for checkpoint in checkpoints:
        folder = out / "evaluations" / "_".join(checkpoint.resolve().parts[-3:])
        if not (folder / "evaluation.json").exists():
            call([*command, f"checkpoint={checkpoint}", "episodes=50", "device=cpu", f"out={folder}", *settings])
        episodes = json.loads((folder / "evaluation.json").read_text())["episodes"]
        rows = [{key: row[key] for key in EPISODE} for row in episodes]
        score = sum(row["score"] for row in rows) / len(rows)
        print(
            f"{checkpoint}  {len(rows)} episodes, mean score {score:.6f}  {digest(json.dumps(rows).encode())}",
            flush=True,
        )


def call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}\n{done.stderr[-2000:]}")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "evaluate"))
    parser.add_argument("out", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="*")
    parser.add_argument("--train", default="diffpolicy train", help="how training is called")
    parser.add_argument("--evaluate", default="diffpolicy evaluate", help="how evaluation is called")
    parser.add_argument("--settings", default="", help="further settings of the evaluation")
    arguments = parser.parse_args()
    if arguments.what == "train":
        train(shlex.split(arguments.train), arguments.out)
    else:
        command = shlex.split(arguments.evaluate)
        evaluate(command, arguments.out, arguments.checkpoints, shlex.split(arguments.settings))


if __name__ == "__main__":
    main()
