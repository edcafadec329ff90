"""How often images that are told by words show what these say, by scale of guidance.

python scripts/lab/study_words.py --runs runs --out docs/results/words

Trains the generator (`task=TASK`) and, for each kind of word, a classifier on the same training images, where RUNS
has none yet, and draws every text several times. A word is obeyed where its classifier reads it; what the classifiers
read in test images is the bound of what can be found so.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffpolicy.checkpoint import latest
from diffpolicy.config import SamplerConfig
from diffpolicy.config.compose import compose
from diffpolicy.datasets.catalog import open_source
from diffpolicy.datasets.images import LabeledImages, from_levels, to_levels
from diffpolicy.evaluation.report import provenance
from diffpolicy.images import load_generator
from diffpolicy.images.classifier import TRAINING, load_classifier, logits_and_features, train_classifier
from diffpolicy.images.drawing import as_images, draw_images, save_grid
from diffpolicy.util import files
from diffpolicy.util.stats import wilson
from runs import seconds, trained
from text_tables import PERCENT, interval, markdown

OUT = Path(__file__).resolve().parents[2] / "docs" / "results" / "words"
TASKS = ("colored_digits", "moving_digits", "solids")
SCALES = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)
SAMPLER = SamplerConfig("dpmpp_2m", 20, "log_snr")
SHOWN = 8  # texts in the picture


def judges(runs: Path, task: str, source: Any, train: LabeledImages, test: LabeledImages) -> dict[str, Any]:
    """Return a classifier for each kind of word, trained where there is none yet."""
    said, heard, found = source.said(train.labels), source.said(test.labels), {}
    for word in source.words:
        folder = runs / f"{task}_{word}"
        if latest(folder / "checkpoints") is None:
            one, other = (
                LabeledImages(_levels(part), labels[word]) for part, labels in ((train, said), (test, heard))
            )
            train_classifier(folder, one, other, training=replace(TRAINING, steps=1200))
        found[word] = load_classifier(folder / "checkpoints" / "last")
    return found


def _levels(images: LabeledImages) -> Tensor:
    return to_levels(as_images(from_levels(images.levels)))


def obeyed(images: Tensor, wanted: Mapping[str, Tensor], judges: Mapping[str, Any]) -> dict[str, Any]:
    """Return the share of images whose word of each kind is read, and of those in which all are."""
    right = {word: logits_and_features(judges[word], images)[0].argmax(1) == wanted[word] for word in judges}
    right["all"] = torch.stack(list(right.values())).all(0)
    return {word: wilson(int(hits.sum()), len(hits)) for word, hits in right.items()}


def table(found: Mapping[str, Any]) -> str:
    """Return the Markdown table of words.json."""
    rows = found["rows"]
    words = list(rows[0]["obeyed"])
    lines = [
        [
            "test images" if row["guidance"] is None else f"{row['guidance']:g}",
            str(row["images"]),
            *(interval(row["obeyed"][word], PERCENT) for word in words),
            str(row.get("network_calls", "")),
        ]
        for row in rows
    ]
    return markdown(f"w | images | {' | '.join(words)} | network calls", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default=TASKS[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--each", type=int, default=10, help="images of a text")
    parser.add_argument("--settings", nargs="*", default=[], help="of the training, as `diffpolicy train` takes them")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    run, settings = options.runs / options.task, [f"task={options.task}", *options.settings]
    source = open_source(compose(settings))
    train, test = (source.images(split) for split in ("train", "test"))
    saved = trained(run, settings)
    read_by = judges(options.runs, options.task, source, train, test)
    of = {"task": options.task, "generator": saved.sha256["ema.safetensors"], "each": options.each}
    rows = [
        {
            "guidance": None,
            "images": len(test),
            "obeyed": obeyed(as_images(from_levels(test.levels)), source.said(test.labels), read_by),
        }
    ]
    generator = load_generator(saved.path)
    generator.configure(SAMPLER)
    labels = torch.arange(len(source.texts)).repeat_interleave(options.each)
    panels = []
    for scale in SCALES:
        drawn, calls = draw_images(generator, labels, 0, scale, "bfloat16", progress=f"w = {scale:g}")
        says = obeyed(as_images(drawn), source.said(labels), read_by)
        rows.append({"guidance": scale, "images": len(labels), "network_calls": calls, "obeyed": says})
        spread = torch.linspace(0, len(source.texts) - 1, SHOWN).long()
        panels.append((f"w = {scale:g}", drawn.unflatten(0, (-1, options.each))[spread].flatten(0, 1)))
    options.out.mkdir(parents=True, exist_ok=True)
    found = {"of": of, "rows": rows, "texts": [source.texts[k] for k in spread], "seconds": seconds(run)}
    files.write_json(options.out / f"{options.task}.json", found | provenance())
    save_grid(
        options.out / f"{options.task}.png", panels[1:5] if len(generator.shape) == 3 else panels[2:3], options.each
    )
    print(table(found))


if __name__ == "__main__":
    main()
