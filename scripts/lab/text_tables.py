"""Markdown tables, and numbers as they stand in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def markdown(header: str, lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table.

    Args:
        header: names of the columns, "a | b | c".
        lines: cells of each line.
    """
    columns = header.count("|") + 1
    return "\n".join([f"| {header} |", "|" + "---|" * columns, *("| " + " | ".join(cells) + " |" for cells in lines)])


def interval(value: Mapping[str, float], form: str = "{:.3f}") -> str:
    """Return "mean [low, high]", each in `form`."""
    mean, low, high = (form.format(value[key]) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def ratio(value: Mapping[str, float], form: str = "{:.2f}") -> str:
    """Return "median [low, high]" of a ratio measured in turns, each in `form`."""
    median, low, high = (form.format(value[key]) for key in ("median", "low", "high"))
    return f"{median} [{low}, {high}]"


PERCENT = "{:.1%}"
