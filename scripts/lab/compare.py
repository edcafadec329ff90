"""Compare policies: train and evaluate what is missing, and write the table, the page and the plots.

python scripts/lab/compare.py                                   all of configs/comparison.yaml
python scripts/lab/compare.py 'flow_206_*' ddpm_206_s0/fresh    some runs, or some evaluations of them
python scripts/lab/compare.py --dry                             only say what there is to do
python scripts/lab/compare.py --plan scripts/lab/configs/compare_metaworld.yaml    another plan, here of a suite
python scripts/lab/compare.py --again flow_206_s0/paper         evaluate again: are the episodes equal?
python scripts/lab/compare.py --retime                          time all chunks again, with nothing else running

Stopped anywhere, the same command resumes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from omegaconf.errors import OmegaConfBaseException

from comparison.work import Comparison, Settings
from diffpolicy.checkpoint import CheckpointError


def main(arguments: Sequence[str] | None = None) -> int:
    options = vars(_parser().parse_args(arguments))
    action = next((name for name in ("list", "dry", "retime") if options[name]), "measure")
    settings = Settings(**{name: value for name, value in options.items() if name not in ("list", "dry", "retime")})
    try:
        return run(Comparison(settings), action)
    except (ValueError, OSError, ImportError, CheckpointError, OmegaConfBaseException) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2


def run(comparison: Comparison, action: str = "measure") -> int:
    """Do what `action` names (list, dry, retime or measure), and return the exit status."""
    if action == "list":
        print(_listed(comparison))
        return 0
    if action == "retime":
        print(comparison.retime())
        return 0
    jobs = comparison.to_do()
    print(comparison.agenda(jobs), flush=True)
    if action == "dry":
        return 0
    comparison.do_all(jobs)
    return comparison.finish(jobs)


def _listed(comparison: Comparison) -> str:
    """The runs of the plan, each with its evaluations."""
    runs: dict[str, list[str]] = {}
    for one in comparison.every.values():
        runs.setdefault(one.run.name, []).append(one.evaluation)
    return "\n".join(f"{name}: {' '.join(evaluations)}" for name, evaluations in runs.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, default = parser.add_argument, Settings()
    add("names", nargs="*", help="runs or measurements, or patterns such as 'flow_*' (default: all)")
    add("--plan", default=default.plan, help="a yaml with the plan (default: ours)")
    add("--runs-dir", help="where runs are trained (default: the plan's)")
    add("--results", help="folder of the results (default: the plan's)")
    add("--workers", type=int, help="processes that roll out (default: by the machine)")
    add("--data-root", help="folder of the downloaded data sets (default: $DIFFPOLICY_DATA)")
    add("--again", action="store_true", help="evaluate stored measurements again and compare the episodes")
    add("--list", action="store_true", help="list the plan's runs and evaluations")
    add("--dry", action="store_true", help="only say what there is to do")
    add("--retime", action="store_true", help="only time the chunks of stored results again")
    return parser


if __name__ == "__main__":
    sys.exit(main())
