"""Whether one policy for several tasks, told in words which, does each as well as a policy for that task alone.

python scripts/lab/study_several.py several.zarr --runs runs

Trains `task=several` on the whole recording, and once on the episodes of each task, where RUNS has no such run yet,
and evaluates both on the same fresh starts of each task.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffpolicy.datasets import ReplayBuffer
from diffpolicy.envs.phrases import PHRASINGS
from diffpolicy.envs.several import TASKS, texts
from diffpolicy.evaluation.report import provenance
from diffpolicy.util import files
from diffpolicy.util.errors import require
from diffpolicy.util.stats import bootstrap, wilson
from runs import evaluated, gain, kept, seconds, trained
from text_tables import PERCENT, interval, markdown

OUT = Path(__file__).resolve().parents[2] / "docs" / "results" / "several.json"
ALL = "all"


def episodes_of(recording: Path) -> dict[str, list[int]]:
    """Return the numbers of a recording's episodes, by the task that their words ask for."""
    buffer = ReplayBuffer.open(recording)
    said = [buffer.attrs["tasks"][k] for k in buffer.meta["task"]]
    of = {text: name for name in TASKS for text in texts(name, PHRASINGS[0])}
    unknown = sorted(set(said) - set(of))
    require(not unknown, f"{recording} says {unknown[:3]}", "what Several-v0 says", "record it without phrasings")
    return {name: [k for k, text in enumerate(said) if of[text] == name] for name in TASKS}


def table(found: Mapping[str, Any]) -> str:
    """Return the Markdown table of several.json, of the tasks whose own policy it has."""
    rows = {(row["policy"], row["task"]): row["episodes"] for row in found["rows"]}
    lines = []
    for name in TASKS:
        if (ALL, name) not in rows or (name, name) not in rows:
            continue
        one, own = rows[ALL, name], rows[name, name]
        scores = [interval(bootstrap([e["score"] for e in part])) for part in (one, own)]
        shares = [interval(wilson(sum(e["success"] for e in part), len(part)), PERCENT) for part in (one, own)]
        better = interval(gain("score", one, own), "{:+.3f}"), interval(gain("success", one, own), "{:+.1%}")
        lines.append([name, *scores, better[0], *shares, better[1]])
    header = "task | score, one policy | its own | difference | success, one policy | its own | difference"
    return markdown(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--policies", nargs="+", choices=(ALL, *TASKS), default=[ALL, *TASKS])
    parser.add_argument("--steps", type=int, default=3000, help="of the training on one task")
    parser.add_argument("--steps-of-all", type=int, default=9000)
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    numbers, rows = episodes_of(options.recording), []
    for policy in options.policies:
        run = options.runs / f"several_{policy}"
        settings = ["task=several", f"dataset.path={options.recording}"]
        settings.append(f"training.steps={options.steps_of_all if policy == ALL else options.steps}")
        if policy != ALL:
            settings += [f"dataset.episodes={numbers[policy]}", f"env.kwargs.task={policy}"]
        saved = trained(run, settings)
        of = {"policy": policy, "sha256": saved.sha256["ema.safetensors"], "seconds": seconds(run)}
        of["steps"] = saved.step
        for task in TASKS if policy == ALL else [policy]:
            how = {"env": {"kwargs": {"task": task}}}
            found = evaluated(saved, run / task, options.episodes, options.workers, **how)
            rows.append(of | {"task": task, "episodes": kept(found, "score", "success")})
    of = {"demonstrations": {name: len(mine) for name, mine in numbers.items()}}
    found = {"of": of, "rows": rows, **provenance()}
    files.write_json(options.out, found)
    print(table(found))


if __name__ == "__main__":
    main()
