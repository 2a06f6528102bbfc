"""The recorder as other rooms see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from agent.spool.interfaces import Also


@dataclass(frozen=True, slots=True)
class RefusalText:
    """A refusal as every surface shows it (V15)."""

    code: str
    reason: str
    rule: str = ""
    object: str = ""
    next: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one record says; its place in the chain, its time and its origin are the recorder's business.

    Attributes:
        action: one of ``cellward.audit.record.ACTIONS``.
        object: what it was done to, ``Kind/namespace/name`` for objects.
        decision: one of ``cellward.audit.record.DECISIONS``.
        actor: who acted; empty is the agent itself.
    """

    action: str
    object: str
    decision: str
    code: str = ""
    rule: str = ""
    reason: str = ""
    correlation_id: str = ""
    details: Mapping[str, str] = field(default_factory=dict)
    revision: int = 0
    actor: str = ""


class RecorderPort(Protocol):
    """Writes the audit chain; ``agent.audit.recorder.Recorder`` is the real one."""

    async def record(self, entry: Entry, *, also: Also | None = None, owed: str = "") -> int:
        """Write one record and return its sequence number once it is durable (V13).

        Args:
            entry: what it says.
            also: a change of the state that must not be there without the record, nor the record without it.
            owed: key under which this record was owed; settled with it.

        Raises ``spool/full``: then the action must not be done, and ``also`` was not.
        """
        ...

    async def record_or_count(self, entry: Entry, *, also: Also | None = None, owed: str = "") -> int | None:
        """Like ``record``, but never in the way: when full the loss is counted, with ``also``, and None returned.

        For drift repair, narrowing and recovery only. The count enters the chain as a record when space is back.
        """
        ...

    async def begin_epoch(
        self, entry: Entry, *, after: int = 0, forget_log: str | None = None, forget_key: bool = False
    ) -> int:
        """End the present epoch because the hub's log takes no more of it; return the new one.

        It begins with ``entry``, to which is added where the old epoch and the log stood; what waits follows it. See
        ``SqliteAuditSpool.begin_epoch`` for the rest.
        """
        ...

    async def owe(self, key: str, entry: Entry) -> None:
        """Note before an act which record is owed for it; never in the way. Another under the same key replaces it.

        An agent that is killed before it records the act finds the note at its next start and records that.
        """
        ...
