"""The command line: `diffpolicy <command> setting=value …`, one file a command."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from diffpolicy.config.help import command_help, overview
from diffpolicy.util.names import unknown

COMMANDS = (
    "train",
    "evaluate",
    "improve",
    "check-env",
    "record",
    "convert",
    "export-dataset",
    "inspect",
    "export",
    "serve",
    "drive",
    "push",
    "sample",
    "gallery",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name; help imports nothing heavy."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview(COMMANDS))
        return
    if arguments[0] == "--version":
        from diffpolicy import __version__

        print(__version__)
        return
    name, *settings = arguments
    if name not in COMMANDS:
        print(f"diffpolicy: {unknown('command', name, COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    command = importlib.import_module(f"diffpolicy.cli.{name.replace('-', '_')}")
    if {"-h", "--help"} & set(settings):
        print(command_help(name, command))
        return
    from diffpolicy.config.execute import execute

    execute(name, command, settings)
