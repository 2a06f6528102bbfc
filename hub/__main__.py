"""``cellward-hub run --config FILE``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cellward.runtime.command import Program
from hub.settings import HubSettings, load_settings


async def _serve(settings: HubSettings) -> None:
    # Imported late: --help and a bad settings file need neither gRPC nor the database.
    from hub.app import main as serve  # noqa: PLC0415

    await serve(settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the hub; exit 0 after an orderly stop, otherwise by the error's class."""
    return Program("cellward-hub", "The Cellward control plane.", "serve until stopped", load_settings, _serve).main(
        argv
    )


if __name__ == "__main__":
    sys.exit(main())
