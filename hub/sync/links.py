"""The streams of this process as others see them, and commands to agents, whichever process holds their streams.

A command is bound to the boot that is connected when it is given, and is written to its stream at most once: it is
marked as sent before that. One whose stream ends in between stays ``sent`` without an outcome.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal

from cellward.wire.v1 import link_pb2
from hub.store.changes import link_topic
from hub.store.links import ANSWER, CommandRow, LinkStore, LinkView, PresenceRow, boot_digest
from hub.store.shared import Together
from hub.sync.changes import ChangesPort
from hub.sync.errors import NOT_CONNECTED

if TYPE_CHECKING:
    from cellward.runtime.clock import Clock

#: Commands that agents know (V2).
CommandName = Literal["resync", "probe", "diagnose", "renew", "reconnect"]
#: How long a command is worth running.
COMMAND_LIFETIME: Final = timedelta(minutes=2)
#: Seconds that an answer may take on its way from one process to another.
_TO_AND_FRO: Final = 3.0
_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")
#: Bounds of what is kept of an outcome: facts, and characters of each text.
_FACTS: Final = 64
_TEXT: Final = 500


class Links:
    """Presence and commands, for one process.

    Args:
        store: where they are.
        changes: wakes who waits for an outcome.
        replica: name of this process, as its lease has it.
        clock: time of rows, and the end of commands.
    """

    def __init__(self, store: LinkStore, changes: ChangesPort, replica: str, clock: Clock) -> None:
        self._store = store
        self._changes = changes
        self._replica = replica
        self._clock = clock
        #: One queue for both, so that the end of a stream never overtakes its beginning, whoever is cancelled.
        self._presence = Together(self._note, "streams-noted")
        #: Ends that the store did not take; they go with what is noted next.
        self._unclosed: set[tuple[str, str]] = set()
        self._looks = Together(store.look, "streams-looked")

    async def opened(self, cluster: str, stream: str, boot_id: str) -> None:
        """Say that this process holds the stream of a cluster."""
        row = PresenceRow(cluster, self._replica, stream, boot_digest(boot_id), self._clock.now())
        await self._presence.join(row)

    async def closed(self, cluster: str, stream: str) -> None:
        """Say that a stream has ended."""
        await self._presence.join((cluster, stream))

    async def look(self, cluster: str) -> LinkView:
        """Return who holds the stream of a cluster, and for whom commands wait."""
        return (await self._looks.join(cluster))[cluster]

    async def _note(self, news: Sequence[PresenceRow | tuple[str, str]]) -> None:
        """Write beginnings, and ends after them: an end is that of one stream, so a newer one stays."""
        self._unclosed.update(one for one in news if not isinstance(one, PresenceRow))
        await self._store.opened([one for one in news if isinstance(one, PresenceRow)])
        ending = sorted(self._unclosed)
        await self._store.closed(ending)
        self._unclosed.difference_update(ending)

    async def elsewhere(self, cluster: str) -> PresenceRow | None:
        """Return the stream of a cluster that another living process holds."""
        row = (await self._store.live([cluster])).get(cluster)
        return row if row is not None and row.replica != self._replica else None

    async def take(self, cluster: str, boot_id: str) -> Sequence[CommandRow]:
        """Return commands that wait for this boot, and are from now on sent."""
        return await self._store.take_commands(cluster, boot_digest(boot_id))

    async def send(
        self,
        cluster: str,
        kind: CommandName,
        subject: str = "",
        *,
        by: str = "hub",
        most: int,
        store: LinkStore | None = None,
        command_id: str = "",
    ) -> CommandRow:
        """Give a command to the connected agent of a cluster, in the transaction of ``store`` where there is one.

        ``command_id`` is nobody's yet; without one it gets one. Raises link/not-connected, also when ``most`` commands
        wait already.
        """
        store = store or self._store
        holder = (await store.live([cluster])).get(cluster)
        if holder is None:
            raise NOT_CONNECTED(f"cluster {cluster} has no open link to any hub", cluster=cluster)
        return await self._put(holder, kind, subject, by, most, store, command_id)

    async def finish(self, cluster: str, result: link_pb2.CommandResult) -> None:
        """Keep the outcome of a command as its agent tells it; what it was not given is dropped."""
        if not _ID.match(result.id):
            return
        facts = {key[:_TEXT]: value[:_TEXT] for key, value in sorted(result.facts.items())[:_FACTS]}
        refusal = {} if result.ok else {"code": result.refusal.code[:128], "reason": result.refusal.reason[:_TEXT]}
        state: Literal["done", "refused"] = "done" if result.ok else "refused"
        await self._store.finish_command(cluster, result.id, state, {"facts": facts, **refusal})

    async def answered(self, row: CommandRow, *, alive: bool) -> None:
        """Tell the process that asked whether the agent answers."""
        await self._store.finish_command(row.cluster, row.id, "done" if alive else "refused", {})

    async def ask(self, holder: PresenceRow, seconds: float) -> bool:
        """Ask the process that holds a stream whether its agent answers; no when it does not say so in time."""
        async with self._changes.subscribe(link_topic(holder.cluster)) as changed:
            asked = await self._put(holder, ANSWER, "", "hub", 1000, self._store)
            try:
                async with asyncio.timeout(seconds + _TO_AND_FRO):
                    while True:
                        found = await self._store.command(asked.id)
                        if found is not None and found.state in {"done", "refused"}:
                            return found.state == "done"
                        await changed.wait()
            except TimeoutError:
                return False

    async def _put(
        self, holder: PresenceRow, kind: str, subject: str, by: str, most: int, store: LinkStore, command_id: str = ""
    ) -> CommandRow:
        now = self._clock.now()
        name = holder.cluster
        row = CommandRow(
            command_id or str(uuid.uuid4()), name, kind, subject, holder.boot, now, by, now + COMMAND_LIFETIME
        )  # fmt: skip
        if not await store.put_command(row, most):
            raise NOT_CONNECTED(f"{most} commands already wait for cluster {name}", cluster=name)
        return row
