"""Measure this project beside its peers, in turn, in one run:

python scripts/lab/benchmark.py train_step --out docs/results/benchmarks/train_step.json

Needs pip install "diffpolicy[benchmark]". Let nothing else run meanwhile. The last lines give, case by case, how many
times faster this project is than its peer: the median over neighbouring turns, with the range.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import env, evaluate, latency, loader, profile, train_step
from diffpolicy.evaluation.report import provenance
from diffpolicy.util.files import write_json

SUBJECTS = {
    "train_step": train_step,
    "profile": profile,
    "latency": latency,
    "env": env,
    "evaluate": evaluate,
    "loader": loader,
}
ROUNDS = 9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n\n".join(f"{name}: {subject.__doc__.strip()}" for name, subject in SUBJECTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--rounds", type=int, help=f"turns of each (default {ROUNDS}, or what the subject says)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    arguments = parser.parse_args()
    subject = SUBJECTS[arguments.subject]
    rounds = getattr(subject, "ROUNDS", ROUNDS) if arguments.rounds is None else arguments.rounds
    if rounds < 1 or arguments.seed < 0:
        parser.error("--rounds is at least 1, --seed at least 0")
    if arguments.out and arguments.out.is_dir():
        parser.error(f"--out takes a file, and {arguments.out} is a folder")
    try:
        found = subject.measure(rounds, arguments.seed)
    except ModuleNotFoundError as error:
        sys.exit(f'{error}; pip install "diffpolicy[benchmark]" brings what is compared with')
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        settings = {"subject": arguments.subject, "rounds": rounds, "seed": arguments.seed}
        write_json(arguments.out, {**found, "settings": settings, **provenance()})
    for case, row in found.items():
        shown = "{median:.2f} [{low:.2f}, {high:.2f}]".format(**row["ratio"])
        spent = ", ".join(f"{who} {value:.3g} s" for who, value in row.get("seconds", {}).items())
        for name, value in row.get("chunk_seconds", {}).items():
            spent += f", {name} {1e3 * value:.2f} ms"
        print(f"{arguments.subject} {case}: ratio {shown}{spent and f' ({spent})'}")


if __name__ == "__main__":
    main()
