"""What a delay costs a policy, and which remedy works: success and score by delay, remedy and error of the actions.

python scripts/lab/study_delay.py runs/pusht_s0 --delays 0 1 2 4 6 --episodes 500

All are rolled out on the same fresh seeds, and compared with the policy without any delay. What is measured is kept
in --out, and is not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffpolicy import checkpoint, evaluate_policy
from diffpolicy.evaluation import compare
from diffpolicy.evaluation.report import provenance
from diffpolicy.util import files, names
from diffpolicy.util.errors import require
from text_tables import PERCENT, interval

OUT = Path(__file__).resolve().parents[2] / "docs" / "results" / "delay.json"
FIRST_SEED = 200_000
KEPT = ("score", "success", "second_difference")
NOTHING = "nothing"
REMEDIES: dict[str, Callable[[int], dict[str, Any]]] = {
    NOTHING: lambda delay: {},
    "hard": lambda delay: {"inpaint": delay},
    "soft": lambda delay: {"guide": "exponential"},
    "soft_no_jacobian": lambda delay: {"guide": "exponential", "guide_jacobian": False},
    "nearest_of_16": lambda delay: {"candidates": 16},
    "roll_forward": lambda delay: {"roll_forward": True},
}
"""Name -> settings of `execution` for a delay."""


def cell(path: Path, remedy: str, delay: int, noise: float, options: argparse.Namespace) -> dict[str, Any]:
    """Return an evaluation."""
    execution = {"delay": delay, "action_noise": noise, **(REMEDIES[remedy](delay) if delay else {})}
    how = {"episodes": options.episodes, "seeds": FIRST_SEED, "workers": options.workers, "videos": 0}
    return evaluate_policy(path, execution=execution, **how)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--delays", type=int, nargs="+", default=[0, 1, 2, 4, 6])
    parser.add_argument("--remedies", nargs="+", default=list(REMEDIES))
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0], help="in units of actions")
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    for name in options.remedies:
        names.check("remedy", name, REMEDIES)
    saved = checkpoint.read(options.run)
    of = {"policy": saved.sha256["ema.safetensors"], "episodes": options.episodes, "first_seed": FIRST_SEED}
    stored = json.loads(options.out.read_text()) if options.out.exists() else {"of": of, "config": saved.config}
    require(stored["of"] == of, f"{options.out} is of {stored['of']}", str(of), "take another --out")
    rows = stored.setdefault("rows", [])
    for noise in options.noise:
        first: dict[str, Any] | None = None
        for delay in sorted({0, *options.delays}):
            for remedy in options.remedies if delay else [NOTHING]:
                key = {"remedy": remedy, "delay": delay, "noise": noise}
                if any(all(row[name] == value for name, value in key.items()) for row in rows) and delay:
                    continue
                found = cell(options.run, remedy, delay, noise, options)
                first = found if first is None else first
                if not any(all(row[name] == value for name, value in key.items()) for row in rows):
                    row = {**key, **{name: found[name] for name in KEPT}, "network_calls": found["network_calls"]}
                    if delay:
                        row["difference"] = {k: v for k, v in compare(found, first).items() if k in KEPT}
                    rows.append(row)
                    files.write_text(options.out, json.dumps({**stored, **provenance()}) + "\n")
                    print(key, interval(found["success"], PERCENT), interval(found["score"]), flush=True)


if __name__ == "__main__":
    main()
