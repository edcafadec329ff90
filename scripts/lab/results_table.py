"""Write the tables of README.md and docs from the raw results in docs/results.

python scripts/lab/results_table.py            write every table between its markers, <!-- name:begin --> and end
python scripts/lab/results_table.py --check    only say whether the pages agree with the results (exit status 1)
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import benchmarks.tables as benchmark_tables
import comparison.suite as suite_tables
import comparison.tables as comparison_tables
import delay_tables
import image_benchmark.tables as image_tables
import samplers.tables as sampler_tables
import study_costs
import study_doubt
import study_goals
import study_metaworld_told
import study_several
import study_told
import study_words
from comparison.page import HEAT_MAP, PLOTS
from comparison.store import Result, read_results
from comparison.tables import NOTHING
from diffpolicy.util import files, names
from text_tables import PERCENT, interval, markdown, ratio

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
SUITE = RESULTS / "metaworld"
MARKED = re.compile(r"<!-- (?P<name>\w+):begin -->\n.*?<!-- (?P=name):end -->", re.DOTALL)


def experts_table(experts: Mapping[str, Any]) -> str:
    """Return the Markdown table of the experts' success."""
    lines = []
    for name, found in experts["experts"].items():
        steps = "{50%:.0f} [{5%:.0f}, {95%:.0f}]".format(**found["steps"])
        lines.append([f"`{name}`", interval(found["success"], PERCENT), steps])
    return markdown("expert | success, 200 seeds | steps, median [5%, 95%]", lines)


def suites_table(suites: Mapping[str, Any]) -> str:
    """Return the Markdown table of other projects' environments: seeds, experts, drawing."""
    lines = []
    for row in suites["rows"]:
        expert, seeds = row["expert"], row["seeds"]
        steps = "{50%:.0f} [{5%:.0f}, {95%:.0f}]".format(**expert["steps"])
        bitwise = max(seeds["after_another"], seeds["in_another_instance"]) == 0.0
        name = " ".join([row["id"].partition("/")[2].removesuffix("-v0"), *row["kwargs"].values()])
        rates = [interval(expert["success"], "{:.0%}"), f"{expert['held']['mean']:.0%}", steps]
        lines.append([name, "yes" if bitwise else "no", *rates, f"{row['drawing']['frame_ms']:.0f}"])
    heading = "environment | a seed is an episode, to the bit | expert's success, {episodes} seeds | held | "
    heading += "steps to success, median [5%, 95%] | CPU ms a frame of 96 × 96"
    return markdown(heading.format(**suites["settings"]), lines)


def speed_table(environments: Mapping[str, Any]) -> str:
    """Return the Markdown table of the environments' speed."""
    lines = []
    for mode in ("state", "pixels"):
        found = environments[mode]
        rates = [f"{value:,.0f}" for value in found["steps_per_second"].values()]
        lines.append([mode, *rates, ratio(found["ratio"], "{:.1f}")])
    return markdown("Push-T, steps/s on one core | diffpolicy | gym-pusht | ratio [range]", lines)


def time_table(found: Mapping[str, Any]) -> str:
    """Return the Markdown table of the seconds from the command to a policy, with ratios to the longest recipe."""
    runs = found["runs"]
    longest = max(runs, key=lambda one: one["seconds"])
    reference = {one["seed"]: one["seconds"] for one in runs if _trial(one) == _trial(longest)}
    lines = []
    for one in sorted(runs, key=lambda one: (*_trial(one), one["seed"])):
        scores = [interval(one["success"], PERCENT), interval(one["score"])]
        share = f"{one['seconds'] / reference[one['seed']]:.2f}" if one["seed"] in reference else "—"
        lines.append([*map(str, _trial(one)), str(one["seed"]), f"{one['seconds']:.0f}", share, *scores])
    heading = "recipe | steps | training seed | seconds, everything | of the longest | "
    return markdown(f"{heading}success, {found['episodes']} fresh seeds | score", lines)


def _trial(one: Mapping[str, Any]) -> tuple[str, int]:
    return one["recipe"], one["steps"]


def improvement_table(found: Mapping[str, Any]) -> str:
    """Return the Markdown table of what improvements are worth and cost."""
    lines = []
    for run, one in found["runs"].items():
        nothing = ["—"] * 3
        lines.append([f"`{run}`", "before", *_judged(one["before"]), *nothing])
        for name, variant in one["variants"].items():
            total, gain = variant["total"], interval(variant["difference"]["success"], "{:+.1%}")
            minutes = f"{total['rollout_seconds'] / 60:.0f} + {total['training_seconds'] / 60:.0f}"
            steps = f"{total['environment_steps'] / 1000:.0f}"
            lines.append([f"`{run}`", f"`{name}`", *_judged(variant), gain, steps, minutes])
    heading = "policy | method | success | score | calls | success, paired difference | thousand environment steps | "
    return markdown(heading + "minutes, rollouts + training", lines)


def temperature_table() -> str:
    """Return the Markdown table of a policy at several temperatures of the noise that sampling starts from."""
    lines = []
    for file in sorted((RESULTS / "temperature").glob("*.json"), key=lambda one: -float(one.stem)):
        found = json.loads(file.read_text())
        gain = interval(found["difference"]["success"], "{:+.1%}") if "difference" in found else "—"
        steadiness = interval(found["second_difference"], "{:.1f}")
        lines.append([file.stem, interval(found["success"], PERCENT), gain, interval(found["score"]), steadiness])
    return markdown("temperature | success | paired difference | score | second difference of actions, px", lines)


def history_table(found: Mapping[str, Any]) -> str:
    """Return the Markdown table of policies that were trained with and without dropping the history."""
    lines = []
    for row in found["rows"]:
        gain = interval(row["difference"]["success"], "{:+.1%}") if "difference" in row else "—"
        judged = [interval(row["success"], PERCENT), gain, interval(row["score"])]
        lines.append([str(row["seed"]), row["name"], *judged, f"{row['stuck']} of {len(row['episodes']['score'])}"])
    heading = "training seed | `policy.history_dropout` | success | paired difference | score | stuck"
    return markdown(heading, lines)


def choosing_table(found: Mapping[str, Any]) -> str:
    """Return the Markdown table of what each way of choosing a checkpoint comes to."""
    runs = [run["criteria"] for run in found["runs"].values()]
    lines = [
        [
            f"`{name}`",
            *(f"{run[name]['success']:.1%}" for run in runs),
            f"{max(run[name]['regret'] for run in runs):.1%}",
        ]
        for name in runs[0]
    ]
    names_of = " | ".join(f"success, `{name}`" for name in found["runs"])
    return markdown(f"chosen by | {names_of} | at most behind the best by", lines)


def teaching_table(found: Mapping[str, Any]) -> str:
    """Return the Markdown table of policies by what taught them."""
    lines = [
        [row["name"], f"{row['temperature']:g}", interval(row["success"], PERCENT), interval(row["score"])]
        for row in found["rows"]
    ]
    return markdown("taught by | temperature | success | score", lines)


def _judged(result: Mapping[str, Any]) -> list[str]:
    return [interval(result["success"], PERCENT), interval(result["score"]), str(result["network_calls"])]


def likelihood_table() -> str:
    """Return the Markdown table of bits per dimension, of the recipes that were measured."""
    stored = {run: RESULTS / "images" / f"likelihood_{run}.json" for run in image_tables.RECIPES}
    return image_tables.likelihood(
        {run: json.loads(file.read_text())["draws"][0] for run, file in stored.items() if file.exists()}
    )


def reading_table() -> str:
    """Return the Markdown table of reading converted recordings."""
    files = (RESULTS / "recordings" / name for name in ("reading.json", "reading_resized.json"))
    return benchmark_tables.reading(*(json.loads(file.read_text()) for file in files))


@functools.cache
def _compared() -> list[Result]:
    return list(read_results(RESULTS).values())


def _from(make: Callable[[Any], str], file: str) -> Callable[[], str]:
    """A table of one JSON file of docs/results."""
    return lambda: make(json.loads((RESULTS / file).read_text()))


def _comparison(name: str) -> Callable[[], str]:
    return lambda: comparison_tables.tables(_compared())[name].markdown()


@functools.cache
def _on_a_suite() -> dict[str, comparison_tables.Table]:
    return suite_tables.tables(list(read_results(SUITE).values()))


def heat_map() -> str:
    """Return the Markdown image of tasks × methods, if it is drawn."""
    file = SUITE / PLOTS / HEAT_MAP
    where = file.relative_to(ROOT / "docs").as_posix()
    return f"![Success at any step, tasks and methods]({where})" if file.exists() else NOTHING


def _suite(name: str) -> Callable[[], str]:
    return lambda: _on_a_suite()[name].markdown()


TABLES: dict[str, Callable[[], str]] = {
    "results": lambda: comparison_tables.summary(_compared()),
    "summary": lambda: comparison_tables.headline(_compared()),
    "modes": lambda: comparison_tables.modes_summary(_compared()),
    "experts": _from(experts_table, "experts.json"),
    "suites": _from(suites_table, "suites.json"),
    "speed": _from(speed_table, "environments.json"),
    "time": _from(time_table, "time_to_score.json"),
    "temperature": temperature_table,
    "choosing": _from(choosing_table, "choosing.json"),
    "teaching": _from(teaching_table, "trials/pusht_teaching.json"),
    "history": _from(history_table, "trials/pusht_history.json"),
    "costs": _from(study_costs.table, "costs.json"),
    "told": _from(study_told.table, "told.json"),
    "goals": _from(study_goals.table, "goals.json"),
    "several": _from(study_several.table, "several.json"),
    "metaworld_told": _from(study_metaworld_told.table, "metaworld_told.json"),
    "doubt": _from(study_doubt.table, "doubt.json"),
    **{task: _from(study_words.table, f"words/{task}.json") for task in study_words.TASKS},
    "delays": _from(delay_tables.delays, "delay.json"),
    "delay": _from(delay_tables.one_delay, "delay.json"),
    "improvement": _from(improvement_table, "improvement.json"),
    "conversion": _from(benchmark_tables.conversion, "recordings/conversion.json"),
    "reading": reading_table,
    "images": _from(image_tables.recipes, "images/benchmark.json"),
    "grid": _from(image_tables.grid, "images/benchmark.json"),
    "ablation": _from(image_tables.ablation, "images/ablation.json"),
    "likelihood": likelihood_table,
    **{name: _comparison(name) for name in comparison_tables.tables([])},
    **{name: _suite(name) for name in suite_tables.tables([])},
    "suite_map": heat_map,
    "samplers": lambda: sampler_tables.samplers(RESULTS / "samplers"),
    **{name: _from(make, f"benchmarks/{file}.json") for name, (make, file) in benchmark_tables.TABLES.items()},
}
"""Every table by the name of its markers."""


def filled(text: str) -> str:
    """Return a page with its tables made anew.

    Raises:
        ValueError: a marker of no table.
    """

    def table(found: re.Match[str]) -> str:
        name = found["name"]
        names.check("table", name, TABLES)
        return f"<!-- {name}:begin -->\n{TABLES[name]()}\n<!-- {name}:end -->"

    return MARKED.sub(table, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = page.read_text()
        wanted = filled(text)
        if wanted == text:
            continue
        if arguments.check:
            sys.exit(f"{page.relative_to(ROOT)} differs from docs/results; run python scripts/lab/results_table.py")
        files.write_text(page, wanted)


if __name__ == "__main__":
    main()
