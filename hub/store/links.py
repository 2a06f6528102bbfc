"""Which process holds the stream of which cluster, and commands to agents: rows, so that any process may answer.

A row of ``presence`` counts while the lease of its process runs (``replica_lease``): nothing is written for a stream
that only stays open, and the streams of a process that was killed are gone when its lease is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, Protocol

#: What became of a command: not delivered yet, written to the stream, carried out, not carried out.
CommandState = Literal["waiting", "sent", "done", "refused"]
#: Kind of a row by which one process asks the one that holds a stream whether its agent answers; no agent gets it.
ANSWER: Final = "answer"
#: Commands of one cluster that are listed.
LISTED: Final = 100


def replica_lease(replica: str) -> str:
    """Return the name of the lease that says that a process lives."""
    return f"replica:{replica}"


def boot_digest(boot_id: str) -> str:
    """Return how a boot is kept: what an agent says of itself may be any text, which a database may refuse."""
    return hashlib.sha256(boot_id.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class PresenceRow:
    """The stream of a cluster.

    Attributes:
        replica: the process that holds it.
        boot: digest of the boot id that the agent's Hello said (``boot_digest``).
    """

    cluster: str
    replica: str
    stream: str
    boot: str
    since: datetime


@dataclass(frozen=True, slots=True)
class CommandRow:
    """A command to one boot of a cluster's agent, and what became of it."""

    id: str
    cluster: str
    kind: str
    subject: str
    boot: str
    created_at: datetime
    created_by: str
    expires_at: datetime
    state: CommandState = "waiting"
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LinkView:
    """What the holder of a stream looks at when it is woken: who holds it now, and whether commands wait for a boot."""

    holder: PresenceRow | None = None
    waiting: frozenset[str] = frozenset()


class LinkStore(Protocol):
    """Presence and commands at rest. A change of either notifies ``link:<cluster>``, and nobody else."""

    async def opened(self, rows: Sequence[PresenceRow]) -> None:
        """Note streams; of two of one cluster the later one stays."""
        ...

    async def closed(self, streams: Sequence[tuple[str, str]]) -> None:
        """Forget streams, by cluster and stream; a newer one of the same cluster stays. Wakes nobody."""
        ...

    async def live(self, clusters: Sequence[str] | None = None) -> Mapping[str, PresenceRow]:
        """Return the streams of processes that live, of these clusters or of all."""
        ...

    async def look(self, clusters: Sequence[str]) -> Mapping[str, LinkView]:
        """Return who holds the stream of each of these clusters, live or not, and for which boots commands wait."""
        ...

    async def put_command(self, row: CommandRow, most: int) -> bool:
        """Keep a command, unless ``most`` of its cluster wait already."""
        ...

    async def take_commands(self, cluster: str, boot: str) -> tuple[CommandRow, ...]:
        """Mark what waits for this boot as sent and return it, oldest first; what has expired stays where it is."""
        ...

    async def finish_command(
        self, cluster: str, command_id: str, state: CommandState, result: Mapping[str, Any]
    ) -> bool:
        """Keep the first outcome of a command of this cluster; False for another's or an unknown one."""
        ...

    async def commands(self, cluster: str) -> tuple[CommandRow, ...]:
        """Return the newest commands of a cluster, newest first."""
        ...

    async def command(self, command_id: str) -> CommandRow | None:
        """Return one command."""
        ...
