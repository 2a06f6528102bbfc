"""``cellward-agent run --config FILE``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from agent.settings import AgentSettings, load_settings
from cellward.runtime.command import Program


async def _work(settings: AgentSettings) -> None:
    # Imported late: --help and a bad settings file need neither gRPC nor the Kubernetes client.
    from agent.app import main as work  # noqa: PLC0415

    await work(settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent; exit 0 after an orderly stop, otherwise by the error's class."""
    description = "The Cellward agent of one cluster."
    return Program("cellward-agent", description, "work until stopped", load_settings, _work).main(argv)


if __name__ == "__main__":
    sys.exit(main())
