"""The settings that fit an environment, as they are typed and as a config file."""

from __future__ import annotations

from diffpolicy.evaluation.check_env.findings import Report, command_line, yaml_lines


def advise(report: Report) -> list[str]:
    """Return the lines that say how to use an environment."""
    lines = [f"{len(report.broken)} broken, {len(report.notes)} notes"]
    evaluation = " ".join(f"{name}={value}" for name, value in report.evaluation.items())
    lines += ["", "The settings that fit, on the command line:", f"  {command_line(report.settings)}"]
    if evaluation:
        lines += ["and for `diffpolicy evaluate` alone:", f"  {evaluation}"]
    return [*lines, "or in a config file:", *(f"  {one}" for one in yaml_lines(report.settings))]


def describe(report: Report) -> str:
    """Return a report as text for the terminal, with the settings that fit at its end."""
    lines = [report.name]
    for check in report.checks:
        lines += check.lines()
    return "\n".join([*lines, "", *advise(report)])
