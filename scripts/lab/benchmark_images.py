"""Measure guided generation of digits: train, sample, and write the table and its plots.

python scripts/lab/benchmark_images.py --runs runs --out docs/results/images

Digits by the 6.S184 notes' recipe, by our own and by four other ways, judged by a classifier that is trained first:
guidance scale × solver × network calls. Runs that are trained and cells that are stored are not made again: stopped
anywhere, the same command resumes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diffpolicy.checkpoint import CheckpointError
from image_benchmark.cells import FEWEST, Cell, cells, scaled
from image_benchmark.work import RUNS, Benchmark


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _parser()
    options = parser.parse_args(arguments)
    shard, shards = _shard(parser, options.shard)
    every = _cells(parser, options)
    if options.ablation and (shards > 1 or options.scale < 1):
        parser.error("--ablation is made whole, by one process: leave --scale and --shard out")
    for folder in (options.runs, options.out):
        if folder.exists() and not folder.is_dir():
            parser.error(f"{folder} is a file; expected a folder")
    bench = Benchmark(options.runs, options.out, options.precision, options.device, options.training, shards == 1)
    try:
        if options.ablation:
            print(f"the ablation: {bench.ablation()}")
            return
        mine = [cell for cell in every if cell.run in options.only][shard::shards]
        for seed in range(options.max_seeds):  # every cell once before any of them again
            for cell in mine:
                if seed < cell.seeds:
                    bench.measure(cell, seed)
        if shards == 1:
            for run in options.only:
                bench.likelihood(run)
            print(f"the table: {bench.report(every)}")
    except (ValueError, OSError, CheckpointError) as error:
        sys.exit(f"benchmark_images: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the trained runs: RUNS/mnist_own …")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), help="these recipes alone")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the samples of a cell (default: 1)")
    parser.add_argument("--max-seeds", type=int, default=3, help="of sampling, at most (default: 3)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16", help="while sampling")
    parser.add_argument(
        "--training", nargs="*", default=[], help="settings of all trainings, as `diffpolicy train`'s"
    )
    parser.add_argument("--device", default="cpu", help="where networks run while sampling (default: cpu)")
    parser.add_argument("--ablation", action="store_true", help="measure what parts of our recipe are worth instead")
    parser.add_argument("--shard", default="0/1", help="I/N: measure every N-th cell only, with N processes at once")
    return parser


def _cells(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Cell]:
    if not 0 < options.scale <= 1 or options.max_seeds < 1:
        parser.error("--scale lies in (0, 1], and --max-seeds is at least 1")
    every = [scaled(cell, options.scale) for cell in cells()]
    if (fewest := min(cell.samples for cell in every)) < FEWEST:
        parser.error(f"--scale {options.scale:g} leaves {fewest} digits in a cell; a Fréchet distance takes {FEWEST}")
    return every


def _shard(parser: argparse.ArgumentParser, text: str) -> tuple[int, int]:
    try:
        shard, shards = (int(part) for part in text.split("/"))
    except ValueError:
        shard, shards = 0, 0
    if not 0 <= shard < shards:
        parser.error(f"--shard={text}; expected I/N with 0 ≤ I < N, such as 0/2 and 1/2")
    return shard, shards


if __name__ == "__main__":
    main()
