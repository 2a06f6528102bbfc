"""A recorder that keeps what it is told, for parts that are tried without a state file."""

from __future__ import annotations

from agent.audit.interfaces import Entry
from agent.spool.interfaces import Also


class ListRecorder:
    """Satisfies ``RecorderPort`` as far as records go; no epoch ever begins."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.owed: dict[str, Entry] = {}

    async def record(self, entry: Entry, *, also: Also | None = None, owed: str = "") -> int:
        """Keep one."""
        del also
        self.owed.pop(owed, None)
        self.entries.append(entry)
        return len(self.entries)

    async def record_or_count(self, entry: Entry, *, also: Also | None = None, owed: str = "") -> int | None:
        """Keep one; there is always room."""
        return await self.record(entry, also=also, owed=owed)

    async def begin_epoch(self, entry: Entry, *, after: int = 0, forget_log: str | None = None) -> int:
        """Refuse: nothing that uses this one begins an epoch."""
        raise AssertionError(f"{entry.action} began an epoch after {after}, {forget_log}")

    async def owe(self, key: str, entry: Entry) -> None:
        """Note what is owed."""
        self.owed[key] = entry
