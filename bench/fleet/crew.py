"""The parent's side of the workers: starts them, gathers what their agents tell, waits for all of them."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.fleet.events import Event, event_of, now
from bench.procfs import usage
from tools.demo.processes import environment

_ROOT = Path(__file__).resolve().parents[2]
#: A worker whose agents are the agent's own code.
_SIMULATED = (sys.executable, "-m", "bench.fleet.worker")
#: Seconds workers get to end by themselves.
_GRACE = 20.0


class Crew:
    """All agents, over several processes.

    Args:
        names: names of the agents.
        directory: where the agents' state is.
        processes: how many share the agents.
        command: a worker; the file with its task is added to it.

    Attributes:
        directory: where the agents' state is, one directory each.
        names: names of the agents.
        joined: when each agent had its first identity.
        synced: when each agent last confirmed that it holds what the hub holds.
        acked: by Deployment: when the hub had acknowledged each agent's receipt.
        verified: by snapshot version: when each agent had accepted that policy set.
        refused: receipts that said no.
        failures: what went wrong at agents, counted.
        cut: when each agent first learned that it is locked.
    """

    def __init__(
        self, names: Sequence[str], directory: Path, processes: int, command: Sequence[str] = _SIMULATED
    ) -> None:
        self.names = tuple(names)
        self.directory = directory
        self._processes = processes
        self._command = command
        self._workers: list[asyncio.subprocess.Process] = []
        self._readers: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()
        self._ready = 0
        self.joined: dict[str, float] = {}
        self.synced: dict[str, float] = {}
        self.acked: dict[str, dict[str, float]] = defaultdict(dict)
        self.verified: dict[int, dict[str, float]] = defaultdict(dict)
        self.refused: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.cut: dict[str, float] = {}

    async def start(self, task: Mapping[str, str]) -> None:
        """Start the workers and wait until all have their agents' state open."""
        for number in range(self._processes):
            mine = self.names[number :: self._processes]
            file = self.directory / f"worker-{number}.json"
            file.write_text(json.dumps({**task, "directory": str(self.directory), "agents": ",".join(mine)}))
            log = (self.directory / f"worker-{number}.log").open("ab")
            worker = await asyncio.create_subprocess_exec(
                *self._command, str(file),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
                env=environment(self.directory), cwd=_ROOT,
            )  # fmt: skip
            log.close()
            self._workers.append(worker)
            self._readers.append(asyncio.create_task(self._read(worker)))
        if not await self.until(lambda: self._ready == self._processes, 120):
            raise TimeoutError("the workers did not open their agents' state within two minutes")

    async def go(self) -> float:
        """Let every agent begin; return when."""
        at = now()
        for worker in self._workers:
            if worker.stdin is not None:
                worker.stdin.write(b"go\n")
        return at

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until a condition over what was gathered holds; False when it did not in time."""
        deadline = now() + seconds
        while not condition():
            if any(reader.done() for reader in self._readers):
                raise RuntimeError(f"a worker ended; its log is in {self.directory}")
            left = deadline - now()
            if left <= 0:
                return False
            self._news.clear()
            try:
                async with asyncio.timeout(min(left, 1.0)):
                    await self._news.wait()
            except TimeoutError:
                continue
        return True

    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.pid for worker in self._workers]

    def cpu(self) -> float:
        """CPU seconds used by all workers so far."""
        return math.fsum(usage(pid).cpu for pid in self.pids())

    async def stop(self) -> None:
        """End the workers."""
        for worker in self._workers:
            if worker.stdin is not None:
                worker.stdin.close()
        for worker in self._workers:
            try:
                async with asyncio.timeout(_GRACE):
                    await worker.wait()
            except TimeoutError:
                worker.kill()
                await worker.wait()
        await asyncio.gather(*self._readers, return_exceptions=True)

    async def _read(self, worker: asyncio.subprocess.Process) -> None:
        if worker.stdout is None:
            return
        while line := await worker.stdout.readline():
            self._take(event_of(line))
            self._news.set()
        self._news.set()

    def _take(self, event: Event) -> None:
        match event.kind:
            case "ready":
                self._ready += 1
            case "joined":
                self.joined[event.agent] = event.at
            case "synced":
                self.synced[event.agent] = event.at
            case "acked":
                self.acked[event.what].setdefault(event.agent, event.at)
            case "refused":
                self.refused[event.what] += 1
            case "verified":
                self.verified[int(event.what)].setdefault(event.agent, event.at)
            case "cut":
                self.cut.setdefault(event.agent, event.at)
            case "failed":
                if event.what not in self.failures:
                    sys.stderr.write(f"bench: {event.agent}: {event.what}\n")
                self.failures[event.what] += 1


def open_files(wanted: int) -> None:
    """Raise the bound of open files for us and our children as far as it may be; sockets and state files need it."""
    import resource  # noqa: PLC0415 - only here

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = min(hard, max(soft, wanted)) if hard != resource.RLIM_INFINITY else max(soft, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
    if enough < wanted:
        sys.stderr.write(f"only {enough} files may be open, {wanted} would be safe\n")


def state_directory() -> Path | None:
    """Return a place in memory for the agents' state, if there is one: a fleet has as many disks as agents."""
    memory = Path("/dev/shm")  # noqa: S108 - a private directory is made below it
    return memory if os.access(memory, os.W_OK) else None
