"""Engines: all engines of one set. One may refuse; the others only warn or watch, and nothing they do can refuse.

They are asked at once. A decision needs the answer of the first alone: whatever fails or is late in another becomes a
warning or a shadow violation of the bindings it was asked about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from agent.policy import gate
from agent.policy.engine import Engine
from cellward.errors import CellwardError
from cellward.policy.errors import ENGINE_UNAVAILABLE

if TYPE_CHECKING:
    from cellward.policy.model import Decision, DecisionInput

#: How much longer than the deciding answer an advisory one may take, seconds.
PATIENCE = 0.5
_log = structlog.get_logger()


class Engines:
    """One deciding engine and any number of advisory ones, started and stopped together."""

    def __init__(self, deciding: Engine, advisory: Sequence[Engine]) -> None:
        self.deciding = deciding
        self.advisory = tuple(advisory)

    async def start(self) -> None:
        """Start all; raises what the deciding one raises, and then none is left running.

        An advisory one that does not start is tried again later: what it would say must not keep out what else the set
        brings, least of all a revocation.
        """
        await self.deciding.start()
        try:
            await asyncio.gather(*(_start_or_watch(engine) for engine in self.advisory))
        except BaseException:
            await self.stop()
            raise

    async def start_what_starts(self) -> CellwardError | None:
        """Start all at once; those that fail are tried again later. Returns why the deciding one did not start."""
        failures = await asyncio.gather(*(_start_or_watch(engine) for engine in (self.deciding, *self.advisory)))
        return failures[0]

    def speak(self) -> None:
        """Tell their conditions from now on."""
        for engine in (self.deciding, *self.advisory):
            engine.speak()

    def mute(self) -> None:
        """Tell them no more."""
        for engine in (self.deciding, *self.advisory):
            engine.mute()

    async def stop(self) -> None:
        """Stop all, each after its queries in flight ended."""
        await asyncio.gather(*(engine.stop() for engine in (self.deciding, *self.advisory)))

    async def decide(self, request: DecisionInput) -> Decision:
        """Decide with the bindings that select the request's environment.

        Raises policy/engine-unavailable or policy/evaluation-failed of the deciding engine; both mean deny.
        """
        asked = [(engine, engine.selected(request)) for engine in (self.deciding, *self.advisory)]
        bound = [entry for _, entries in asked for entry in entries]
        if not bound:
            return gate.no_binding(request)
        advice = [asyncio.create_task(engine.ask(request, entries)) for engine, entries in asked[1:] if entries]
        try:
            enforced = asked[0][1]
            answers = dict(await self.deciding.ask(request, enforced)) if enforced else {}
            if advice:
                await asyncio.wait(advice, timeout=None if not enforced else PATIENCE)
        finally:
            for task in advice:
                task.cancel()
            outcomes = await asyncio.gather(*advice, return_exceptions=True)
        failed: dict[str, CellwardError] = {}
        for (_, entries), outcome in zip([pair for pair in asked[1:] if pair[1]], outcomes, strict=True):
            if isinstance(outcome, Mapping):
                answers.update(outcome)
            else:
                failed.update({entry.binding.name: _reason(outcome) for entry in entries})
        return gate.decide(request, bound, answers, failed)


async def _start_or_watch(engine: Engine) -> CellwardError | None:
    try:
        await engine.start()
    except CellwardError as error:
        _log.error("policy-engine-start-failed", code=error.code, reason=error.message)
        engine.start_watching()
        return error
    except Exception as error:  # noqa: BLE001 - an engine that nobody starts again would be a denial for good (V16)
        _log.exception("policy-engine-start-failed")
        engine.start_watching()
        return ENGINE_UNAVAILABLE(f"the engine cannot be started: {type(error).__name__}")
    return None


def _reason(outcome: BaseException) -> CellwardError:
    if isinstance(outcome, CellwardError):
        return outcome
    if isinstance(outcome, asyncio.CancelledError):
        return ENGINE_UNAVAILABLE("it took longer than the decision could wait")
    _log.error("policy-advice-failed", error=type(outcome).__name__)
    return ENGINE_UNAVAILABLE(f"it failed: {type(outcome).__name__}")
