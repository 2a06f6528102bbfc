"""Notices that the hub's own store was restored: agents bring tree heads that this log signed and does not have.

Invariants: only a note signed by the hub's own key counts, so nobody can claim a restore; the finding is durable before
the new history has a name; an agent that still speaks of an earlier history starts no other one.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from hub.audit.service import AuditLog

_log = structlog.get_logger()


class History(Protocol):
    """The part of the store that names its history."""

    @property
    def hub_epoch(self) -> str:
        """Identity of this history."""
        ...

    async def new_epoch(self) -> str:
        """Begin a new history."""
        ...


class RestoreWatch:
    """Begins a new hub epoch when an agent proves that this store is older than what it has seen.

    Args:
        log: the audit log.
        history: names the hub's history, in Welcome.
    """

    def __init__(self, log: AuditLog, history: History) -> None:
        self._log = log
        self._history = history
        self._lock = asyncio.Lock()

    async def saw(self, cluster: str, hub_epoch: str, note: bytes) -> None:
        """Compare the last tree head an agent accepted with this log; ``hub_epoch`` is what it was given then."""
        if not note or hub_epoch != self._history.hub_epoch:
            return
        head = await self._log.denied(note)
        if head is None:
            return
        async with self._lock:
            if hub_epoch != self._history.hub_epoch:
                return  # another agent has said so meanwhile
            reason = (
                f"cluster {cluster} has a tree head of {head.size} records signed here, which this log does not have"
            )
            _log.error("hub-store-set-back", cluster=cluster, size=head.size)
            details = {"cluster": cluster, "size": str(head.size), "root": "sha256:" + head.root.hex()}
            await self._log.begin_epoch("hub", f"{reason}: the store was restored or replaced", details)
            await self._history.new_epoch()
