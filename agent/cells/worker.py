"""The driver of one cell's machine: everything that changes a cell happens in its turn, one thing at a time.

It hands events to the machine, carries out the effects (``agent.cells.hands``) and hands back what became of them.
Drift is repaired before anything else and between two steps. Neither repairs nor narrowing wait for a release, their
own or another cell's: see ``pace``.
"""

from __future__ import annotations

import asyncio

import structlog

from agent.cells.cell import Cell
from agent.cells.drift import DriftControl
from agent.cells.edges import Edges
from agent.cells.hands import Hands
from agent.cells.interfaces import OnStatus
from agent.cells.life import CellLife
from agent.cells.machine import effects as do
from agent.cells.machine import events as on
from agent.cells.machine.rules import due_at
from agent.cells.pace import Pace, SupersededError
from agent.link.interfaces import CellReport
from agent.verify.refusals import is_passing, refusal_of, unexpected
from cellward.errors import CellwardError
from cellward.runtime.tasks import is_being_cancelled
from cellward.wire.codec import DesiredItem

_log = structlog.get_logger()


class CellWorker:
    """Mailbox and turn of one cell; ``accepted`` is the item of what is in force, as it was accepted."""

    def __init__(
        self,
        cell: Cell,
        life: CellLife,
        drift: DriftControl,
        pace: Pace,
        edges: Edges,
        hands: Hands,
        on_status: OnStatus,
        accepted: DesiredItem | None = None,
    ) -> None:
        self.cell = cell
        self.drift = drift
        self._life = life
        self._pace = pace
        self._edges = edges
        self._hands = hands
        self._on_status = on_status
        self._accepted = accepted
        self._reported: CellReport | None = None

    # -- what comes from outside --------------------------------------------------------------------------------------

    def offer(self, item: DesiredItem) -> None:
        """Take the newest item; one that was not taken up yet is replaced."""
        self._life.tell(on.ItemCame(self._life.sight(), item))
        self.wake()

    def wake(self) -> None:
        """Ask for a look."""
        self._pace.wake()

    def reconsider(self) -> None:
        """Try again what was refused or is waiting, repairs too; what is held stays held, unless signatures changed."""
        self.drift.forgive()
        self._life.tell(on.Reconsider(self._life.sight()))
        if self.drift.due_at() is not None or self.is_waiting:
            self.wake()

    def ground_changed(self) -> None:
        """Look again whether what the cluster refused still stands in the way: something went, or is another."""
        if self.cell.life.obstacle is not None:
            self.reconsider()

    @property
    def is_waiting(self) -> bool:
        """Whether there is something that was not taken up yet."""
        life = self.cell.life
        return life.fresh is not None or life.owed.narrow or self._pace.woken

    @property
    def is_over(self) -> bool:
        """Whether the cell ended, nothing is left of it, and nobody asks for anything else."""
        record, life = self.cell.record, self.cell.life
        item = life.fresh or life.item
        ended = bool(record.ending) and record.settled and not record.objects and not record.going
        answered = not life.owed.answers
        return ended and answered and (item is None or item.deployment_digest == record.deployment_digest)

    # -- turns --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take turns for ever; ends only by cancellation."""
        self._life.tell(on.Loaded(self._life.sight(), self._accepted))
        if self.cell.life.owed.narrow:
            self.wake()
        while True:
            await self._pace.sleep(due_at(self.cell.life))
            try:
                await self._turn()
            except asyncio.CancelledError:
                if is_being_cancelled():
                    raise
                # What was waited for was cancelled, not this worker; passed on, its group would not notice the end.
                self._broke(on.Failed(self._life.sight(), (), passing=True), "turn-cancelled")
            except Exception as error:  # noqa: BLE001 - V16: one cell's fault must not end the process
                self._broke(
                    on.Broken(self._life.sight(), (refusal_of(unexpected(error), self._subject),)), "turn-failed"
                )
                await self.report()

    async def _turn(self) -> None:
        """Repair what is due, then do what the machine asks for until it asks for nothing."""
        await self._repair()
        await self._keep_proof()
        self.drift.follow()
        while effects := self._life.tell(self._look()):
            while effects:
                effects = await self._carry_out(effects)
            await self._repair()
        await self.report()

    async def _repair(self) -> None:
        try:
            await self._pace.repair()
        except CellwardError as error:
            # It stays due, and is tried again at its own time.
            _log.warning("repair-interrupted", cell=self.cell.record.namespace, code=error.code, reason=error.message)

    async def _keep_proof(self) -> None:
        try:
            await self._hands.keep_proof()
        except CellwardError as error:
            # What was measured holds in memory, and is saved with whatever is saved next.
            _log.warning("proof-not-kept", cell=self.cell.record.namespace, code=error.code, reason=error.message)

    async def _carry_out(self, effects: tuple[do.Effect, ...]) -> tuple[do.Effect, ...]:
        """Carry out effects; return those that follow from the last one."""
        following: tuple[do.Effect, ...] = ()
        for effect in effects:
            if isinstance(effect, do.Report):
                await self.report()
            else:
                following = self._life.tell(await self._outcome(effect))
                self._sync_turn()
        return following

    async def _outcome(self, effect: do.Effect) -> on.Event:
        try:
            outcome = await self._hands.carry_out(effect)
        except SupersededError:
            return on.Superseded(self._life.sight())
        except CellwardError as error:
            name = self.cell.record.namespace
            _log.info("step-failed", cell=name, step=type(effect).__name__, code=error.code, reason=error.message)
            return on.Failed(self._life.sight(), (refusal_of(error, self._about(effect)),), passing=is_passing(error))
        return outcome(self._life.sight())

    def _about(self, effect: do.Effect) -> str:
        returning = isinstance(effect, do.WorkEffect) and effect.work.reason
        return (
            effect.work.item.deployment_digest if isinstance(effect, do.WorkEffect) and not returning else self._subject
        )

    def _broke(self, event: on.Event, what: str) -> None:
        _log.exception(what, cell=self.cell.record.namespace)
        self._life.tell(event)
        self._sync_turn()

    def _sync_turn(self) -> None:
        """Give the turn back as soon as the machine holds none."""
        work = self.cell.life.work
        if work is None:
            self._hands.forget()
        if work is None or not work.turn:
            self._pace.give_turn()

    def _look(self) -> on.Look:
        edges, differ = self._edges.look()
        return on.Look(self._life.sight(), self.cell.outlook(edges, edges_differ=differ))

    # -- reports ------------------------------------------------------------------------------------------------------

    @property
    def _subject(self) -> str:
        return f"Cell/{self.cell.record.namespace}"

    async def report(self) -> None:
        """Report the state of the cell if it is another than was reported last."""
        report = self.cell.report()
        if report != self._reported:
            self._reported = report
            await self._on_status(report)
