"""How samplers do on fields that were learned: every deterministic solver, on every time grid, with 1 to 20 calls.

python scripts/lab/study_samplers.py points                           trains its own small network first
python scripts/lab/study_samplers.py policy RUN [--episodes 200]      a flow policy; rolled out where that is asked
python scripts/lab/study_samplers.py digits RUN                       a generator of digits

From the same noise, the samples of each setting are compared with the fine solution: their root mean square distance,
and for action chunks the mean second difference. Writes docs/results/samplers/NAME.json and a plot beside it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from diffpolicy import evaluate_policy
from diffpolicy.config import SamplerConfig
from diffpolicy.evaluation.metrics import metric_names
from diffpolicy.evaluation.report import provenance
from diffpolicy.generative.sampling import GRIDS
from diffpolicy.generative.solvers import SOLVERS, Solver, make_solver
from diffpolicy.util import files
from samplers.fields import FIRST_SEED, Chunks, Digits, Learned, Points, distance

OUT = Path(__file__).resolve().parents[2] / "docs" / "results" / "samplers"
FINE = SamplerConfig("euler", 500, "uniform")
CHECK = SamplerConfig("heun", 250, "quadratic")
MOST_CALLS = 20
BASE = SamplerConfig("euler", 10, "uniform")
ROLLED_OUT = (
    BASE,
    *(SamplerConfig("euler", steps, "uniform") for steps in (1, 2, 4, 20)),
    SamplerConfig("heun", 5, "quadratic"),
    SamplerConfig("heun", 5, "uniform"),
    SamplerConfig("rk4", 3, "quadratic"),
    SamplerConfig("rk4", 3, "uniform"),
    SamplerConfig("ddim", 10, "uniform"),
    SamplerConfig("dpmpp_2m", 10, "uniform"),
    SamplerConfig("dpmpp_2m", 10, "log_snr"),
    SamplerConfig("dpmpp_3m", 10, "uniform"),
    SamplerConfig("euler_maruyama", 50, "quadratic"),
)
"""Settings of which the success is measured: those that the docs name, and their neighbors."""


def settings() -> Iterator[SamplerConfig]:
    """Yield every deterministic solver with fixed steps, once, on every grid, with up to `MOST_CALLS` steps."""
    seen: list[Solver] = []
    for name in SOLVERS:
        solver = make_solver(name)
        if not solver.fixed or solver in seen:
            continue
        seen.append(solver)
        for grid in GRIDS:
            yield from (SamplerConfig(name, steps, grid) for steps in range(1, MOST_CALLS + 1))


def measure(learned: Learned) -> dict[str, Any]:
    """Return the rows of all settings that fit, and what they are compared with."""
    learned.configure(FINE)
    fine, calls = learned.draw()
    learned.configure(CHECK)
    rows = []
    found = {
        "unit": learned.unit,
        "samples": len(fine),
        "fine": {**vars(FINE), "calls": calls, "unsteadiness": learned.unsteadiness(fine)},
        "check": {**vars(CHECK), "distance": distance(learned.draw()[0], fine)},
        "source": learned.source,
    }
    for one in tqdm(list(settings()), unit="setting"):
        try:
            learned.configure(one)
        except ValueError:  # a grid of another kind of path
            continue
        samples, calls = learned.draw()
        if calls <= MOST_CALLS:
            how = {"solver": one.solver, "grid": one.grid, "steps": one.steps, "calls": calls}
            rows.append({**how, "distance": distance(samples, fine), "unsteadiness": learned.unsteadiness(samples)})
    return {**found, "rows": rows, **provenance()}


def rolled_out(path: Path, episodes: int) -> list[dict[str, Any]]:
    """Return the results of `ROLLED_OUT`, with the paired differences from the first."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "0" / "evaluation.json"
        for number, one in enumerate(ROLLED_OUT):
            how = {"solver": one.solver, "steps": one.steps, "grid": one.grid}
            against = {"compare_to": base} if number else {}
            out = Path(folder) / str(number)
            result = evaluate_policy(path, out, episodes=episodes, seeds=FIRST_SEED, videos=0, **how, **against)
            kept = [*metric_names(result["episodes"]), "network_calls", "difference"]
            found.append({**how, "episodes": episodes, **{name: result[name] for name in kept if name in result}})
            print(how, {name: round(result[name]["mean"], 3) for name in kept[:-2]}, flush=True)
    return found


def draw(path: Path, found: Mapping[str, Any]) -> None:
    """Draw distances against calls: a panel for each grid, a line for each solver."""
    grids = list(dict.fromkeys(row["grid"] for row in found["rows"]))
    solvers = list(dict.fromkeys(row["solver"] for row in found["rows"]))
    colors = dict(zip(solvers, matplotlib.colormaps["tab10"].colors, strict=False))
    figure = Figure(figsize=(3.4 * len(grids), 3.6), layout="constrained")
    for axes, grid in zip(figure.subplots(1, len(grids), sharey=True, squeeze=False)[0], grids, strict=True):
        for solver in solvers:
            points = [
                (row["calls"], row["distance"])
                for row in found["rows"]
                if (row["solver"], row["grid"]) == (solver, grid)
            ]
            axes.plot(*zip(*points, strict=True), marker=".", color=colors[solver], label=solver)
        axes.set(title=f"grid={grid}", xlabel="network calls", yscale="log", xscale="log")
    figure.axes[0].set_ylabel(f"distance to the fine solution,\n{found['unit']}")
    figure.axes[-1].legend(fontsize="small")
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("field", choices=("points", "policy", "digits"))
    parser.add_argument("checkpoint", nargs="?", type=Path)
    parser.add_argument("--episodes", type=int, default=0, help="roll a policy out, too")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    if (arguments.field == "points") != (arguments.checkpoint is None):
        parser.error("points takes no checkpoint; policy and digits take one")
    if arguments.episodes and arguments.field != "policy":
        parser.error("--episodes is for a policy")
    torch.set_num_threads(1)
    learned = {"points": lambda _: Points(), "policy": Chunks, "digits": Digits}[arguments.field](
        arguments.checkpoint
    )
    found = measure(learned)
    arguments.out.mkdir(parents=True, exist_ok=True)
    draw(arguments.out / f"{arguments.field}.png", found)
    file = arguments.out / f"{arguments.field}.json"
    files.write_text(file, json.dumps(found, indent=1) + "\n")
    if arguments.episodes:
        found["rolled_out"] = rolled_out(arguments.checkpoint, arguments.episodes)
        files.write_text(file, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
