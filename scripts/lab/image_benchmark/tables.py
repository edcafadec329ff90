"""Markdown tables of the image benchmark's results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from text_tables import interval, markdown

RECIPES = {
    "notes": "the notes'",
    "own": "our own",
    "dit": "transformer",
    "latent": "latent flow",
    "mean_flow": "MeanFlow",
    "discrete": "8 gray levels",
    "binary": "black and white",
}
_QUALITY = "accuracy | Fréchet distance | diversity | least varied"


def recipes(found: Mapping[str, Any]) -> str:
    """Return the table of the recipes by guidance scale, with other test digits, from benchmark.json."""
    most = max(one["samples"] for one in found["rows"])
    lines = []
    order = list(RECIPES)
    for one in sorted(
        found["rows"], key=lambda one: (order.index(one["run"]), one["guidance"], one["network_calls"])
    ):
        if one["samples"] == most:
            minutes = f"{found['training'][one['run']]['minutes']:.0f}"
            how = [RECIPES[one["run"]], minutes, f"{one['guidance']:g}", one["sampler"], f"{one['network_calls']}"]
            lines.append([*how, f"{one['seeds']} × {most}", *_quality(one)])
    lines.append(["other test digits", "", "", "", "", str(most), *_quality(found["floors"][str(most)])])
    return markdown(f"recipe | training, min | w | solver | network calls | digits | {_QUALITY}", lines)


def grid(found: Mapping[str, Any]) -> str:
    """Return the table of guidance scale × solver × network calls, of our own recipe, from benchmark.json."""
    fewest = min(one["samples"] for one in found["rows"])
    chosen = [one for one in found["rows"] if one["samples"] == fewest and one["run"] == "own"]
    order = {name: i for i, name in enumerate(dict.fromkeys(one["sampler"] for one in chosen))}
    chosen.sort(key=lambda one: (one["guidance"], order[one["sampler"]], one["network_calls"]))
    lines = [[f"{one['guidance']:g}", one["sampler"], str(one["network_calls"]), *_quality(one)] for one in chosen]
    lines.append(["", "other test digits", "", *_quality(found["floors"][str(fewest)])])
    return markdown(f"w | solver | network calls | {_QUALITY}", lines)


def ablation(found: Mapping[str, Any]) -> str:
    """Return the table of short trainings with parts of our recipe, from ablation.json."""
    lines = [[one["run"].replace("_", " "), str(one["steps"]), *_quality(one)[:2]] for one in found["rows"]]
    return markdown("short training | steps | accuracy | Fréchet distance", lines)


def likelihood(found: Mapping[str, Any]) -> str:
    """Return the table of bits per dimension, from `bits_per_dimension` or `token_bits` of each run."""
    lines = []
    for run, one in found.items():
        if bound := one.get("token_bound"):
            bits = f"{bound['mean']:.3f} ± {bound['standard_error']:.3f}"
            lines.append([RECIPES[run], str(one["images"]), str(one["levels"]), "", "", bits])
            continue
        flow, bound = one["flow"], one["ddpm_bound"]
        through = f"{flow['mean']:.3f} ± {flow['standard_error']:.3f} ({flow['hutchinson']:.3f})"
        lines.append(
            [
                RECIPES[run],
                str(one["images"]),
                "256",
                through,
                f"{bound['mean']:.3f} ± {bound['standard_error']:.3f}",
                "",
            ]
        )
    heads = "through the flow, bits/dim | DDPM's bound, bits/dim | the masks' bound, bits/dim"
    return markdown(f"recipe | test digits | gray levels | {heads}", lines)


def _quality(one: Mapping[str, Any]) -> list[str]:
    varied = one["diversity"]
    return [
        interval(one["accuracy"], "{:.2%}"),
        interval(one["frechet"], "{:.2f}"),
        f"{varied['mean']:.2f}",
        f"{varied['min']:.2f}",
    ]
