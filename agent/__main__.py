"""``cellward-agent run|probe --config FILE``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.settings import AgentSettings, load_settings
from cellward.runtime.command import Program, Tool


async def _work(settings: AgentSettings) -> None:
    # Imported late: --help and a bad settings file need neither gRPC nor the Kubernetes client.
    from agent.app import main as work  # noqa: PLC0415

    await work(settings)


async def _probe(_: AgentSettings, address: Path | None) -> Mapping[str, object]:
    # Imported late, as above.
    from agent.vitals import ask  # noqa: PLC0415

    return await ask(str(address))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent; exit 0 after an orderly stop, otherwise by the error's class."""
    description = "The Cellward agent of one cluster."
    probe = Tool("probe", "wait until the agent at HOST:PORT has policy in force and its hub", _probe, "HOST:PORT")
    return Program("cellward-agent", description, "work until stopped", load_settings, _work, (probe,)).main(argv)


if __name__ == "__main__":
    sys.exit(main())
