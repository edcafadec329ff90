"""Measure this project beside its peers, in turn, in one run.

python scripts/lab/benchmark.py train_step --out docs/results/benchmarks/train_step.json

Needs pip install "diffpolicy[benchmark]". Let nothing else run meanwhile. The last lines say, case by case, how many
times faster this project is than its peer: the median over neighboring turns, with the range.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import env, evaluate, gpu, latency, loader, overhead, profile, train_step
from diffpolicy.evaluation.report import provenance
from diffpolicy.util.files import write_json
from text_tables import ratio

SUBJECTS = {
    "train_step": train_step,
    "profile": profile,
    "latency": latency,
    "gpu": gpu,
    "env": env,
    "evaluate": evaluate,
    "loader": loader,
    "overhead": overhead,
}
ROUNDS = {"profile": 3, "evaluate": 2}  # whose turns take minutes
DEFAULT_ROUNDS = 9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n\n".join(f"{name}: {subject.__doc__.strip()}" for name, subject in SUBJECTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--rounds", type=int, help=f"turns of each ({DEFAULT_ROUNDS}; by subject: {ROUNDS})")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    name = arguments.subject
    rounds = ROUNDS.get(name, DEFAULT_ROUNDS) if arguments.rounds is None else arguments.rounds
    if rounds < 1 or arguments.seed < 0:
        parser.error("--rounds is at least 1, --seed at least 0")
    if arguments.out and arguments.out.is_dir():
        parser.error(f"--out={arguments.out} is a folder; expected a file")
    try:
        found = SUBJECTS[name].measure(rounds, arguments.seed)
    except ModuleNotFoundError as error:
        sys.exit(f'{error}; pip install "diffpolicy[benchmark]" installs what is compared with')
    if arguments.out:
        settings = {"subject": name, "rounds": rounds, "seed": arguments.seed}
        write_json(arguments.out, {**found, "settings": settings, **provenance()})
    for case, one in found.items():
        if not isinstance(one, dict):  # such as which GPU it is
            continue
        seconds = [f"{who} {value:.3g} s" for who, value in one.get("seconds", {}).items()]
        seconds += [f"{quantile} {1e3 * value:.2f} ms" for quantile, value in one.get("chunk_seconds", {}).items()]
        print(f"{name} {case}: ratio {ratio(one['ratio'])}", f"({', '.join(seconds)})" if seconds else "")


if __name__ == "__main__":
    main()
