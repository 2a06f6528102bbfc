"""Presence and commands in memory; every process in it lives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hub.store.links import CommandRow, CommandState, LinkView, PresenceRow


@dataclass
class MemoryLinks:
    """Implements ``LinkStore``; ``notify`` hears the topics that changed."""

    notify: Callable[[str], None]
    streams: dict[str, PresenceRow] = field(default_factory=dict)
    rows: dict[str, CommandRow] = field(default_factory=dict)

    async def opened(self, rows: Sequence[PresenceRow]) -> None:
        """Note streams."""
        for row in rows:
            self.streams[row.cluster] = row
            self.notify(f"link:{row.cluster}")

    async def closed(self, streams: Sequence[tuple[str, str]]) -> None:
        """Forget streams."""
        for cluster, stream in streams:
            if cluster in self.streams and self.streams[cluster].stream == stream:
                del self.streams[cluster]

    async def live(self, clusters: Sequence[str] | None = None) -> Mapping[str, PresenceRow]:
        """Return the streams."""
        return {name: row for name, row in self.streams.items() if clusters is None or name in clusters}

    async def look(self, clusters: Sequence[str]) -> Mapping[str, LinkView]:
        """Return who holds the streams, and for whom commands wait."""
        return {
            name: LinkView(self.streams.get(name), frozenset(row.boot for row in self._waiting(name)))
            for name in clusters
        }

    async def put_command(self, row: CommandRow, most: int) -> bool:
        """Keep a command."""
        if len(self._waiting(row.cluster)) >= most:
            return False
        self.rows[row.id] = row
        self.notify(f"link:{row.cluster}")
        return True

    async def take_commands(self, cluster: str, boot: str) -> tuple[CommandRow, ...]:
        """Mark what waits for this boot as sent and return it."""
        taken = tuple(replace(row, state="sent") for row in self._waiting(cluster) if row.boot == boot)
        self.rows |= {row.id: row for row in taken}
        return taken

    async def finish_command(
        self, cluster: str, command_id: str, state: CommandState, result: Mapping[str, Any]
    ) -> bool:
        """Keep the first outcome."""
        row = self.rows.get(command_id)
        if row is None or row.cluster != cluster or row.state in {"done", "refused"}:
            return False
        self.rows[command_id] = replace(row, state=state, result=dict(result))
        self.notify(f"link:{cluster}")
        return True

    async def commands(self, cluster: str) -> tuple[CommandRow, ...]:
        """Return the commands of a cluster."""
        return tuple(row for row in self.rows.values() if row.cluster == cluster)

    async def command(self, command_id: str) -> CommandRow | None:
        """Return one command."""
        return self.rows.get(command_id)

    def _waiting(self, cluster: str) -> list[CommandRow]:
        return [row for row in self.rows.values() if row.cluster == cluster and row.state == "waiting"]
