"""The floor beside the hub: the bare server of ``bench.floor``, its connections held by the same light load."""

from __future__ import annotations

import asyncio
import math
import sys
from pathlib import Path

from bench.fleet.crew import Crew
from bench.procfs import usage
from tools.demo.processes import environment

_ROOT = Path(__file__).resolve().parents[2]


class Floor:
    """A bare server and its clients; ``start``, then ``join``, then any number of ``round``.

    Attributes:
        crew: its clients.
        base: memory of the server before the first of them, MB.
    """

    def __init__(self, agents: int, directory: Path, load: Path) -> None:
        self._directory = directory
        self._load = load
        self._process: asyncio.subprocess.Process | None = None
        self._rounds = 0
        self.crew = Crew([f"floor-{number:04d}" for number in range(agents)], directory, 1, [str(load)])
        self.base = math.nan

    @property
    def pid(self) -> int:
        """Process id of the server."""
        if self._process is None:
            raise RuntimeError("the floor was not started")
        return self._process.pid

    async def start(self) -> None:
        """Start the server, and make its clients ready to connect."""
        with (self._directory / "floor.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bench.floor", str(self._directory),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
                env=environment(self._directory), cwd=_ROOT,
            )  # fmt: skip
        assert self._process.stdout is not None
        address = (await self._process.stdout.readline()).decode().strip()
        if not address:
            raise RuntimeError(f"the floor did not start: {(self._directory / 'floor.log').read_text()[-2000:]}")
        chain = str(self._directory / "floor.crt")
        task = {"mode": "floor", "address": address, "hub_ca": chain, "certificate": chain}
        await self.crew.start({**task, "key": str(self._directory / "floor.key")})
        self.base = usage(self.pid).rss

    async def join(self, patience: float) -> float:
        """Let everybody connect; return the server's CPU seconds for each: a handshake, a stream and two messages."""
        before = usage(self.pid).cpu
        await self.crew.go()
        if not await self.crew.until(lambda: len(self.crew.synced) == len(self.crew.names), patience):
            return math.nan
        return (usage(self.pid).cpu - before) / len(self.crew.names)

    async def round(self, patience: float) -> float:
        """Item, receipt and acknowledgement with everybody; return the server's CPU seconds for each."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._rounds += 1
        before, acked = usage(self.pid).cpu, self.crew.acked[str(self._rounds)]
        self._process.stdin.write(b"go\n")
        if not await self.crew.until(lambda: len(acked) == len(self.crew.names), patience):
            return math.nan
        return (usage(self.pid).cpu - before) / len(self.crew.names)

    async def stop(self) -> None:
        """End the clients and the server."""
        await self.crew.stop()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            await self._process.wait()
