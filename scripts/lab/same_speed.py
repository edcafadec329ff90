"""Compare the speed of two installations, in pairs: training step, latency of a chunk, evaluation.

    python scripts/lab/same_speed.py BEFORE/.venv/bin AFTER/.venv/bin CHECKPOINT --out speed.json

BEFORE and AFTER take turns (A B, B A, …) on an otherwise idle machine; what counts is the median of the ratios
after / before. CHECKPOINT is one that both can load. The commands' own clocks are read, so starting is not counted.
Chunks take turns one by one, in two processes, since a machine's speed drifts by more than the 3% that are asked.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

STEPS, FIRST = 100, 40  # steps of a training, and the first one that is timed
LATENCY = """
import sys, time, torch, numpy as np
torch.set_num_threads(1)
from diffpolicy import load_policy
policy = load_policy(sys.argv[1], freeze=True)
obs = np.random.default_rng(0).uniform(50, 450, (1, policy.obs_horizon, policy.obs_dim)).astype(np.float32)
def chunk(): return policy.predict(obs)
for _ in range(20): chunk()
for _ in iter(sys.stdin.readline, ""):
    began = time.perf_counter(); chunk(); print(time.perf_counter() - began, flush=True)
"""
CHUNKS = 150


def training_step(bin_: Path, checkpoint: Path, folder: Path) -> float:
    """Seconds per step of a training of `task=pusht_expert`, on one thread."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    settings = [f"training.steps={STEPS}", "training.log_every=20", "speed=float32", "device=cpu", "env.id=null"]
    settings += ["training.validate_every=0", "training.checkpoint_every=0", f"run_dir={run}", "task=pusht_expert"]
    call([*command(bin_, "train"), *settings])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    at = {line["step"]: line["seconds"] for line in lines if "loss" in line}
    return (at[STEPS] - at[FIRST]) / (STEPS - FIRST)


def latency(sides: list[Path], checkpoint: Path, folder: Path) -> list[float]:
    """Median seconds of a chunk for one robot on one thread, of processes that take turns."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1, **surroundings()}
    running = [subprocess.Popen([side / "python", "-c", LATENCY, checkpoint], **pipes) for side in sides]
    seconds = [[] for _ in sides]
    for turn in range(CHUNKS):
        for i in (0, 1) if turn % 2 else (1, 0):
            running[i].stdin.write("\n")
            seconds[i].append(float(running[i].stdout.readline()))
    for process in running:
        process.stdin.close()
        process.wait()
    return [statistics.median(times) for times in seconds]


def evaluation(bin_: Path, checkpoint: Path, folder: Path) -> float:
    """Minutes of 32 episodes in one process."""
    out = folder / "evaluation"
    shutil.rmtree(out, ignore_errors=True)
    settings = ["episodes=32", "workers=0", "videos=0", "device=cpu", f"checkpoint={checkpoint}", f"out={out}"]
    call([*command(bin_, "evaluate"), *settings])
    return float(json.loads((out / "evaluation.json").read_text())["minutes"])


def one_by_one(measure: Callable[[Path, Path, Path], float]) -> Callable[[list[Path], Path, Path], list[float]]:
    return lambda sides, checkpoint, folder: [measure(side, checkpoint, folder) for side in sides]


MEASURES: dict[str, Callable[[list[Path], Path, Path], list[float]]] = {
    "training step": one_by_one(training_step),
    "latency": latency,
    "evaluation": one_by_one(evaluation),
}


def command(bin_: Path, name: str) -> list[str]:
    """How the command is called there: `diffpolicy NAME`, or `diffpolicy-NAME` before version 0.2."""
    new = bin_ / "diffpolicy"
    return [str(new), name] if new.exists() else [str(bin_ / f"diffpolicy-{name}")]


def call(arguments: list[str]) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, **surroundings())
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}\n{done.stderr[-2000:]}")
    return done.stdout


def surroundings() -> dict[str, object]:
    return {"env": {**os.environ, "OMP_NUM_THREADS": "1"}, "cwd": tempfile.gettempdir()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--out", type=Path, help="where to write the raw values")
    arguments = parser.parse_args()
    result: dict[str, object] = {"processor": platform.processor() or platform.machine()}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            pairs = []
            for number in range(arguments.pairs):
                sides = [arguments.before, arguments.after][:: 1 if number % 2 == 0 else -1]
                found = MEASURES[name](sides, arguments.checkpoint.resolve(), Path(folder))
                taken = dict(zip(sides, found, strict=True))
                pairs.append((taken[arguments.before], taken[arguments.after]))
            ratios = sorted(after / before for before, after in pairs)
            middle = statistics.median(ratios)
            result[name] = {"pairs": pairs, "ratio": middle, "range": [ratios[0], ratios[-1]]}
            print(f"{name:14} after / before: {middle:.3f}  [{ratios[0]:.3f}, {ratios[-1]:.3f}]", flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
