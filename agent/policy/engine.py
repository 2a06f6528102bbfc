"""Engine: one activated set of bundles, kept answering: its OPA is restarted with back-off when it dies or hangs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from agent.policy import gate
from agent.policy.gate import BoundBundle
from agent.policy.opa import OpaProcess
from cellward.errors import CellwardError
from cellward.policy.errors import CANARY_FAILED, ENGINE_UNAVAILABLE
from cellward.runtime.backoff import FullJitter

if TYPE_CHECKING:
    from pathlib import Path

    from cellward.policy.model import Decision, DecisionInput
    from cellward.runtime.health import HealthRegistry

CONDITION = "policy-engine"
#: How often an idle engine is asked for its health, seconds.
HEALTH_INTERVAL = 5.0
#: How long a retired engine may finish queries in flight, seconds; more than the deadline of one query.
DRAIN = 3.0
_log = structlog.get_logger()


class Engine:
    """OPA over a fixed set of bound bundles; a canary is asked before it first decides."""

    def __init__(
        self,
        binary: Path,
        bound: Sequence[BoundBundle],
        canary: DecisionInput,
        health: HealthRegistry,
        *,
        backoff: FullJitter | None = None,
        health_interval: float = HEALTH_INTERVAL,
    ) -> None:
        self._binary = binary
        self.bound = tuple(bound)
        self._canary = canary
        self._health = health
        self._backoff = backoff or FullJitter(base=0.1, cap=10.0)
        self._interval = health_interval
        self._process: OpaProcess | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._suspect = asyncio.Event()
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def pid(self) -> int | None:
        """Process id of the present child."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start, ask the canary, and watch from then on.

        Raises policy/engine-unavailable, policy/canary-failed or policy/evaluation-failed; nothing is left running.
        """
        self._process = await self._spawn()
        self._health.set(CONDITION, True)  # noqa: FBT003 - the condition's value
        self.start_watching()

    def start_watching(self) -> None:
        """Watch without a first start: the watcher starts the child, and tries again when it cannot."""
        self._watcher = asyncio.create_task(self._watch(), name="opa-watch")

    async def _spawn(self) -> OpaProcess:
        bundles = {entry.bundle.digest: entry.bundle for entry in self.bound}
        process = OpaProcess(self._binary, list(bundles.values()), gate.gate_module(self.bound))
        await process.start()
        try:
            await self._ask_canary(process)
        except BaseException:
            await process.stop()
            raise
        return process

    async def _ask_canary(self, process: OpaProcess) -> None:
        results = await process.ask(gate.question(self._canary, self.bound))
        answers = results if isinstance(results, dict) else {}
        for entry in self.bound:
            answer = answers.get(entry.binding.name)
            if not isinstance(answer, dict) or not isinstance(answer.get("0"), list):
                name = f"{entry.bundle.name} {entry.bundle.version}"
                raise CANARY_FAILED(f"entrypoint {entry.bundle.entrypoint} of bundle {name} gives no set of results")

    async def decide(self, request: DecisionInput) -> Decision:
        """Decide with the bindings that select the request's environment.

        Raises policy/engine-unavailable or policy/evaluation-failed; both mean deny.
        """
        bound = [entry for entry in self.bound if entry.binding.selects(request.facts, request.environment)]
        if not bound:
            return gate.no_binding(request)
        process = self._process
        if process is None:
            raise ENGINE_UNAVAILABLE("the engine is being restarted")
        self._in_flight += 1
        self._idle.clear()
        try:
            results = await process.ask(gate.question(request, bound))
        except CellwardError as error:
            if error.code == ENGINE_UNAVAILABLE.code:
                self._suspect.set()
            raise
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()
        return gate.decide(request, bound, results)

    async def _watch(self) -> None:
        while True:
            process = self._process
            if process is not None:
                await self._until_broken(process)
                self._process = None
                self._health.set(CONDITION, False, ENGINE_UNAVAILABLE.code, "the engine died or hung; restarting it")  # noqa: FBT003
                _log.warning("policy-engine-lost")
                await process.stop()
            try:
                self._process = await self._spawn()
            except CellwardError as error:
                self._health.set(CONDITION, False, error.code, error.message)  # noqa: FBT003
                await asyncio.sleep(self._backoff.next())
                continue
            self._backoff.reset()
            self._health.set(CONDITION, True)  # noqa: FBT003
            _log.info("policy-engine-ready", pid=self.pid)

    async def _until_broken(self, process: OpaProcess) -> None:
        """Return when the child has ended, or does not answer a health check."""
        ended = asyncio.create_task(process.wait())
        suspect = asyncio.create_task(self._suspect.wait())
        try:
            while True:
                await asyncio.wait({ended, suspect}, timeout=self._interval, return_when=asyncio.FIRST_COMPLETED)
                if ended.done() or not await process.healthy():
                    return
                if suspect.done():
                    self._suspect.clear()
                    suspect = asyncio.create_task(self._suspect.wait())
        finally:
            self._suspect.clear()
            for task in (ended, suspect):
                task.cancel()
            await asyncio.gather(ended, suspect, return_exceptions=True)

    async def stop(self) -> None:
        """Let queries in flight end, then stop the child."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), DRAIN)
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None
        process, self._process = self._process, None
        if process is not None:
            await process.stop()
