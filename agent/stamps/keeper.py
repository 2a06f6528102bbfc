"""Keeps the key of this cluster's stamps, and replaces it after any absence of the guards.

Whether the guards were away is derived from what they are now (``fingerprint_of``), so it does not matter whether the
agent ran meanwhile. A policy that was put back bites about a second later: until then the new stamps could be copied
too, so they are made only after ``settle`` seconds. Until they are made nothing new is applied (``check``).

A cell that cannot be brought along holds the others up for ``grace`` seconds at most: after that its namespace is not
selected until it is stamped, which closes and never opens.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from agent.audit.interfaces import Entry, RecorderPort
from agent.spool.interfaces import Meta
from agent.stamps.copy import StampCopy
from agent.stamps.errors import NOT_SAVED, PENDING, RENEWED, SLOW
from agent.stamps.state import StampState, Step, state_from_text
from cellward.cells.stamps import KEY_BYTES, Stamps
from cellward.errors import CellwardError
from cellward.runtime.clock import Timer
from cellward.runtime.health import HealthRegistry

_log = structlog.get_logger()

#: Condition of the agent.
CONDITION: Final = "stamps"
SETTLE_SECONDS: Final = 5.0
GRACE_SECONDS: Final = 60.0
_META: Final = "stamps"
_RETRY_SECONDS: Final = 2.0
_SUBJECT: Final = "Stamps"


class StampKeeper:
    """The stamps of one cluster.

    Args:
        meta: where the state of the agent keeps them.
        copy: the copy in the agent's namespace.
        recorder: records every change of the key.
        health: gets the condition ``stamps``.
        timer: measures ``settle`` and ``grace``.
        behind: returns the namespaces of cells that have not come through the present step.
        settle: seconds between the return of the guards and a new key.
        grace: seconds a cell may hold up a step.
    """

    def __init__(
        self,
        meta: Meta,
        copy: StampCopy,
        recorder: RecorderPort,
        health: HealthRegistry,
        timer: Timer,
        behind: Callable[[], Sequence[str]],
        *,
        settle: float = SETTLE_SECONDS,
        grace: float = GRACE_SECONDS,
    ) -> None:
        self.on_step: Callable[[], None] = lambda: None
        self._meta, self._copy, self._recorder, self._health, self._timer = meta, copy, recorder, health, timer
        self._behind, self._settle, self._grace = behind, settle, grace
        self._state: StampState | None = None
        #: What holds now; the same object while nothing changes.
        self._stamps: Stamps | None = None
        #: What stands of the guards, empty while they are broken or not seen; and since when.
        self._guards, self._guards_since = "", 0.0
        self._step_since = timer.monotonic()
        self._looked = self._marked = False
        self._copied: StampState | None = None
        self._wake = asyncio.Event()

    # -- asked by the cells -------------------------------------------------------------------------------------------

    @property
    def current(self) -> Stamps | None:
        """What holds now, None while it is not known yet."""
        return self._stamps

    def require(self) -> Stamps:
        """Return what holds now; raises stamps/pending while it is not known."""
        if self._stamps is None:
            raise PENDING("the stamps of this cluster are not known yet", object=_SUBJECT)
        return self._stamps

    def check(self) -> None:
        """Raise stamps/pending unless the key was made under the guards that stand now."""
        if self._state is None or not self._guards or self._state.guards not in {"", self._guards}:
            raise PENDING("the admission policies were away; the stamps are renewed first", object=_SUBJECT)

    def check_proof(self) -> None:
        """Raise stamps/pending unless a stamp of now proves that this agent put it there.

        While guards are away anybody may copy one, and what was copied still holds until another key has taken its
        place everywhere.
        """
        self.check()
        if self._state is None or self._state.step is not Step.DONE:
            raise PENDING("the stamps are being renewed; a namespace made meanwhile proves nothing", object=_SUBJECT)

    # -- called by the cells ------------------------------------------------------------------------------------------

    def proof(self) -> Stamps | None:
        """Return the stamps that prove whose a namespace is, None while they do not."""
        try:
            self.check_proof()
        except CellwardError:
            return None
        return self.current

    def saw_guards(self, fingerprint: str) -> None:
        """Take note of which guards stand; empty when one is missing or changed."""
        if fingerprint != self._guards:
            self._guards, self._guards_since = fingerprint, self._timer.monotonic()
            self._wake.set()

    def nudge(self) -> None:
        """Look again whether every cell has come through."""
        if self._state is not None and (self._state.step is not Step.DONE or not self._marked):
            self._wake.set()

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load what is durable, and make a key where there is none; an API server that is away leaves it to ``run``."""
        text = await self._meta.get(_META)
        if text is not None:
            try:
                self._take(state_from_text(text))
            except ValueError as error:
                _log.error("stamps-damaged", reason=str(error))
        with contextlib.suppress(CellwardError):
            await self._look_at_copy()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                delay = await self._once()
            except CellwardError as error:
                _log.warning("stamps-wait", code=error.code, reason=error.message)
                delay = _RETRY_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            self._wake.clear()

    async def _once(self) -> float | None:
        """Do what is to be done now; return after how many seconds there may be more, None when nothing is due."""
        if not self._looked:
            await self._look_at_copy()
        state = self._state
        if state is None:
            return _RETRY_SECONDS
        if state.step is not Step.DONE:
            return await self._go_on(state)
        if self._guards and not state.guards:
            await self._change(state.seen(self._guards))
        elif self._guards and state.guards != self._guards:
            return await self._renew(state)
        return None if await self._copy_and_mark() else _RETRY_SECONDS

    async def _look_at_copy(self) -> None:
        """Compare with the copy: the higher generation holds, so a state that was lost or restored does no harm."""
        copied = await self._copy.load()
        self._looked, self._copied = True, copied
        if copied is not None and (self._state is None or copied.generation > self._state.generation):
            await self._change(copied)
        elif self._state is None:
            # Cells of an older chart carry no stamp yet; without any there is nothing to bring along.
            step = Step.CARRY if self._behind() else Step.DONE
            await self._change(StampState(secrets.token_bytes(KEY_BYTES), step=step))

    async def _renew(self, state: StampState) -> float | None:
        left = self._guards_since + self._settle - self._timer.monotonic()
        if left > 0:
            return left
        await self._change(state.renewed(secrets.token_bytes(KEY_BYTES), self._guards))
        entry = Entry("fence.finding", _SUBJECT, "finding", code=RENEWED.code, reason=RENEWED.title)
        await self._recorder.record_or_count(entry)
        return 0.0

    async def _go_on(self, state: StampState) -> float | None:
        behind = self._behind()
        left = self._step_since + self._grace - self._timer.monotonic()
        if behind and left > 0:
            return left
        if behind:
            message = f"{len(behind)} cells did not come through step {state.step.value}, {behind[0]} for one"
            self._health.set(CONDITION, ok=False, code=SLOW.code, message=message)
            _log.error("stamps-cell-left-behind", cells=list(behind[:5]), step=state.step.value)
        await self._change(state.advanced())
        return 0.0

    async def _copy_and_mark(self) -> bool:
        """Bring the copy up to date, and say when every cell is stamped; return whether that is so."""
        if self._copied != self._state and self._state is not None:
            await self._copy.save(self._state)
            self._copied = self._state
        if self._behind():
            return False
        self._health.set(CONDITION, ok=True)
        if not self._marked:
            await self._copy.mark()
            self._marked = True
        return True

    async def _change(self, state: StampState) -> None:
        """Make a state durable in one place at least, then take it into force."""
        failed: list[CellwardError] = []
        try:
            await self._meta.set({_META: state.to_text()})
        except CellwardError as error:
            failed.append(error)
        try:
            if self._copied != state:
                await self._copy.save(state)
                self._copied = state
        except CellwardError as error:
            failed.append(error)
        if len(failed) > 1:
            message = f"{failed[0].message}; {failed[1].message}"
            self._health.set(CONDITION, ok=False, code=NOT_SAVED.code, message=message)
            raise NOT_SAVED(message, object=_SUBJECT) from failed[0]
        self._take(state)
        self.on_step()

    def _take(self, state: StampState) -> None:
        old = self._state
        if old is None or old.stamps != state.stamps:
            self._stamps, self._step_since = state.stamps, self._timer.monotonic()
        self._state = state
