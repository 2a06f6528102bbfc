"""``cellward-agent run --config FILE``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.settings import load_settings
from cellward.errors import CellwardError
from cellward.telemetry.logging import configure_logging


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent; exit 0 after an orderly stop, otherwise by the error's class."""
    parser = argparse.ArgumentParser(prog="cellward-agent", description="The Cellward agent of one cluster.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="work until stopped")
    run.add_argument("--config", type=Path, required=True, help="settings, YAML")
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings(arguments.config)
        configure_logging(settings.log_level)
        # Imported late: --help and a bad settings file need neither gRPC nor the Kubernetes client.
        from agent.app import main as work  # noqa: PLC0415

        asyncio.run(work(settings))
    except CellwardError as error:
        sys.stderr.write(f"cellward-agent: {error.message} [{error.code}]\n{error.hint}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
