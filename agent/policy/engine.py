"""Engine: one activated group of bundles, kept answering: its OPA is restarted with back-off when it dies or hangs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from agent.policy import gate
from agent.policy.gate import BoundBundle
from agent.policy.opa import OpaProcess
from cellward.errors import CellwardError
from cellward.policy.errors import CANARY_FAILED, ENGINE_UNAVAILABLE
from cellward.runtime.backoff import FullJitter
from cellward.runtime.tasks import first_of

if TYPE_CHECKING:
    from pathlib import Path

    from cellward.policy.model import DecisionInput
    from cellward.runtime.health import HealthRegistry

#: Condition of the engine that may refuse.
CONDITION = "policy-engine"
#: How often an idle engine is asked for its health, seconds.
HEALTH_INTERVAL = 5.0
#: How long a retired engine may finish queries in flight, seconds; more than the deadline of one query.
DRAIN = 3.0
_log = structlog.get_logger()


async def _nothing() -> None:
    return


class Engine:
    """OPA over a fixed group of bound bundles; a canary is asked before it first decides.

    It sets its condition only between :meth:`speak` and :meth:`mute`: of two engines during a switch, one does.

    Args:
        check: awaited before each start until it succeeded once.
        nice: niceness of the child; what only advises gives way to what decides.
    """

    def __init__(  # noqa: PLR0913 - one composition, by keyword
        self,
        binary: Path,
        bound: Sequence[BoundBundle],
        canary: DecisionInput,
        health: HealthRegistry,
        *,
        condition: str = CONDITION,
        check: Callable[[], Awaitable[None]] = _nothing,
        nice: int = 0,
        backoff: FullJitter | None = None,
        health_interval: float | None = None,
    ) -> None:
        self._binary = binary
        self.bound = tuple(bound)
        self._canary = canary
        self._health = health
        self._condition = condition
        self._check = check
        self._nice = nice
        self._backoff = backoff or FullJitter(base=0.1, cap=10.0)
        self._interval = HEALTH_INTERVAL if health_interval is None else health_interval
        self._process: OpaProcess | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._failure: CellwardError | None = None
        self._speaks = False
        self._suspect = asyncio.Event()
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def pid(self) -> int | None:
        """Process id of the present child."""
        return None if self._process is None else self._process.pid

    def speak(self) -> None:
        """Tell the condition from now on."""
        self._speaks = True
        self._tell()

    def mute(self) -> None:
        """Tell it no more: another engine does."""
        self._speaks = False

    def _tell(self) -> None:
        if not self._speaks:
            return
        failure = self._failure
        if failure is None:
            self._health.set(self._condition, True)  # noqa: FBT003 - the condition's value
        else:
            self._health.set(self._condition, False, failure.code, failure.message)  # noqa: FBT003

    async def start(self) -> None:
        """Start, ask the canary, and watch from then on.

        Raises policy/engine-unavailable, policy/does-not-compile, policy/canary-failed or policy/evaluation-failed;
        nothing is left running.
        """
        try:
            self._process = await self._spawn()
        except CellwardError as error:
            self._failure = error
            raise
        self.start_watching()

    def start_watching(self) -> None:
        """Watch without a first start: the watcher starts the child, and tries again when it cannot."""
        self._watcher = asyncio.create_task(self._watch(), name="opa-watch")

    async def _spawn(self) -> OpaProcess:
        await self._check()
        self._check = _nothing
        process = OpaProcess(self._binary, gate.distinct(self.bound), gate.gate_module(self.bound), nice=self._nice)
        await process.start()
        try:
            await self._ask_canary(process)
        except BaseException:
            await process.stop()
            raise
        self._failure = None
        return process

    async def _ask_canary(self, process: OpaProcess) -> None:
        results = await process.ask(gate.question(self._canary, self.bound))
        answers = results if isinstance(results, dict) else {}
        for entry in self.bound:
            answer = answers.get(entry.binding.name)
            if not isinstance(answer, dict) or not isinstance(answer.get("0"), list):
                name = f"{entry.bundle.name} {entry.bundle.version}"
                raise CANARY_FAILED(f"entrypoint {entry.bundle.entrypoint} of bundle {name} gives no set of results")

    def selected(self, request: DecisionInput) -> tuple[BoundBundle, ...]:
        """Return what of it holds for the request's environment."""
        return tuple(entry for entry in self.bound if entry.binding.selects(request.facts, request.environment))

    async def ask(self, request: DecisionInput, entries: Sequence[BoundBundle]) -> Mapping[str, object]:
        """Return the answers of some of its bindings, by name; what gave none is missing.

        Raises policy/engine-unavailable or policy/evaluation-failed, or why the engine cannot be started.
        """
        process = self._process
        if process is None:
            raise self._failure or ENGINE_UNAVAILABLE("the engine is being restarted")
        self._in_flight += 1
        self._idle.clear()
        try:
            results = await process.ask(gate.question(request, entries))
        except CellwardError as error:
            if error.code == ENGINE_UNAVAILABLE.code:
                self._suspect.set()
            raise
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()
        return results if isinstance(results, dict) else {}

    async def _watch(self) -> None:
        while True:
            try:
                await self._keep()
            except CellwardError as error:
                self._failure = error
            except Exception as error:  # noqa: BLE001 - an engine that nobody restarts would be a denial for good (V16)
                _log.exception("policy-engine-watch-failed")
                self._failure = ENGINE_UNAVAILABLE(f"the engine cannot be kept: {type(error).__name__}")
            else:
                self._backoff.reset()
                self._tell()
                _log.info("policy-engine-ready", pid=self.pid)
                continue
            self._tell()
            await self._backoff.wait()

    async def _keep(self) -> None:
        """Return when there is a new child in place of one that ended, hung or never was."""
        process = self._process
        if process is not None:
            try:
                await self._until_broken(process)
            except Exception:  # noqa: BLE001 - what cannot be asked for its health has none
                _log.exception("policy-engine-health-unknown")
            self._process = None
            self._failure = ENGINE_UNAVAILABLE("the engine died or hung; restarting it")
            self._tell()
            _log.warning("policy-engine-lost")
            await process.stop()
        self._process = await self._spawn()

    async def _until_broken(self, process: OpaProcess) -> None:
        """Return when the child has ended, or does not answer a health check."""
        ended = asyncio.create_task(process.wait())
        try:
            while True:
                await first_of(ended, self._suspect.wait(), seconds=self._interval)
                if ended.done() or not await process.healthy():
                    return
                self._suspect.clear()
        finally:
            self._suspect.clear()
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)

    async def stop(self) -> None:
        """Let queries in flight end, then stop the child."""
        self.mute()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), DRAIN)
        watcher, self._watcher = self._watcher, None
        while watcher is not None and not watcher.done():
            # More than once: a wait_for inside that ends at the same moment swallows the first one (Python 3.11).
            watcher.cancel()
            await asyncio.wait({watcher}, timeout=1)
        process, self._process = self._process, None
        if process is not None:
            await process.stop()
