"""The entry point ``cellward``."""

from __future__ import annotations

import sys
from io import TextIOWrapper


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback, and a poor terminal does not end it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        # What scripts and images ask first is answered without the parser, which alone costs 0.1 s of CPU.
        if sys.argv[1:] == ["version"]:
            from cellward.version import VERSION
            from cli.output import put

            put(VERSION)
            return
        from cli.commands import app

        app()
    except KeyboardInterrupt:
        sys.exit(130)
