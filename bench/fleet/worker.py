"""A worker process: holds some of the agents. ``python -m bench.fleet.worker FILE``, FILE being its task as JSON.

It opens the agents' state, says ``ready``, waits for a line on standard input, then runs all agents at once until
standard input ends. Events go to standard output, one JSON line each.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.fleet.agent import FleetFacts, SimulatedAgent
from bench.fleet.events import Event, Kind, line_of, now
from cellward.runtime.memory import collect_rarely
from cellward.telemetry.logging import configure_logging

#: Threads for python-tuf, which is synchronous; more than the default, because they mostly wait for the hub.
_THREADS = 16


def _emit(kind: Kind, agent: str, what: str) -> None:
    os.write(sys.stdout.fileno(), line_of(Event(kind, agent, now(), what)))


def _common(task: dict[str, str]) -> FleetFacts:
    return FleetFacts(
        realm=task["realm"],
        root=Path(task["root"]).read_bytes(),
        hub_ca_pem=Path(task["hub_ca"]).read_bytes(),
        enrolment_address=task["enrolment"],
        environment=task["environment"],
        push_audit=task["push_audit"] == "yes",
    )


async def run(task: dict[str, str], common: FleetFacts) -> None:
    """Hold the agents of a task until standard input ends."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS))
    directory = Path(task["directory"])
    names = task["agents"].split(",")
    agents = [await SimulatedAgent.open(name, directory / name, common, _emit) for name in names]
    # A process of one agent has little to collect; without this 500 of them would pay for each other's objects.
    collect_rarely()
    _emit("ready", "", "")
    await asyncio.to_thread(sys.stdin.readline)
    running = [asyncio.create_task(_kept(name, agent)) for name, agent in zip(names, agents, strict=True)]
    await asyncio.to_thread(sys.stdin.read)
    for one in running:
        one.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def _kept(name: str, agent: SimulatedAgent) -> None:
    """Run one agent; an end of its own is shown, and the others go on."""
    try:
        await agent.run()
    except Exception as error:  # noqa: BLE001 - whatever it was, it is shown
        text = "".join(traceback.format_exception(error))
        _emit("failed", name, f"ended: {text[-1500:]}")


def main() -> None:
    """Run one worker."""
    configure_logging("error")
    task = json.loads(Path(sys.argv[1]).read_text())
    asyncio.run(run(task, _common(task)))


if __name__ == "__main__":
    main()
