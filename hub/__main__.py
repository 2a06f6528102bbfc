"""``cellward-hub run --config FILE``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from cellward.errors import CellwardError
from cellward.telemetry.logging import configure_logging
from hub.settings import load_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the hub; exit 0 after an orderly stop, otherwise by the error's class."""
    parser = argparse.ArgumentParser(prog="cellward-hub", description="The Cellward control plane.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="serve until stopped")
    run.add_argument("--config", type=Path, required=True, help="settings, YAML")
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings(arguments.config)
        configure_logging(settings.log_level)
        # Imported late: --help and a bad settings file need neither gRPC nor the database.
        from hub.app import main as serve  # noqa: PLC0415

        asyncio.run(serve(settings))
    except CellwardError as error:
        sys.stderr.write(f"cellward-hub: {error.message} [{error.code}]\n{error.hint}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
