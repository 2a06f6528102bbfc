"""Writing what agents report: together where many come at once, and not again where nothing changed.

A thousand agents that repeat themselves must not keep the store busy. What is remembered here only saves writes: it is
forgotten when a stream opens or closes, so that another process's writes are never hidden for longer than a stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from cellward.documents.names import CellKey
from hub.store.interfaces import ReceiptRow, SeenRow, StatusRow
from hub.store.shared import Together

if TYPE_CHECKING:
    from cellward.runtime.clock import Clock
    from hub.store.interfaces import Store

#: Seconds after which an unchanged report is written again, so that "last seen" stays true.
REPEAT_SECONDS = 60.0
#: Least seconds between two transactions of one kind: what a fleet says within them shares one. Agents wait for the
#: acknowledgement of a receipt, which comes with that of its cell's state, and for nothing else.
SEEN_APART, APART = 0.1, 0.05


class Reports:
    """Reports of agents on their way into the store; each call returns when what it says is durable there."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._statuses = Together(self._write_statuses, "fleet-statuses", apart=APART)
        self._receipts = Together(store.desired.put_receipts, "fleet-receipts", apart=APART)
        self._seen = Together(store.clusters.update_seen_many, "fleet-seen", apart=SEEN_APART)
        self._written: dict[str, dict[object, tuple[Any, float]]] = {}
        self._items: dict[str, set[CellKey]] = {}

    def forget(self, cluster: str) -> None:
        """A stream of the cluster opened or closed: write everything again."""
        self._written.pop(cluster, None)
        self._items.pop(cluster, None)

    async def is_item(self, cluster: str, key: CellKey) -> bool:
        """Whether the cluster was ever meant to have this cell; items never go away, so a yes may be kept."""
        if key in self._items.get(cluster, ()):
            return True
        found = await self._store.desired.get(cluster, key) is not None
        if found:
            self.known(cluster, (key,))
        return found

    def known(self, cluster: str, keys: Iterable[CellKey]) -> None:
        """Hear which cells a cluster is meant to have; whoever reads its items knows them."""
        self._items.setdefault(cluster, set()).update(keys)

    async def agent(self, cluster: str, report: dict[str, Any]) -> None:
        """Keep what an agent said of itself."""
        if self._unchanged(cluster, None, report):
            return
        await self.seen(cluster, report)
        self._remember(cluster, None, report)

    async def cell(self, row: StatusRow) -> None:
        """Keep the state of a cell."""
        if self._unchanged(row.cluster, row.key, row.body):
            return
        await self._statuses.join(row)
        self._remember(row.cluster, row.key, row.body)

    async def receipt(self, row: ReceiptRow) -> None:
        """Keep the outcome of an item."""
        await self._receipts.join(row)

    async def seen(self, cluster: str, report: dict[str, Any] | None = None) -> None:
        """Note that an agent was there, and merge what it said."""
        await self._seen.join(SeenRow(cluster, self._clock.now(), report))

    async def _write_statuses(self, rows: Sequence[StatusRow]) -> None:
        # One statement may not name a row twice: the newest state of a cell wins.
        newest = {(row.cluster, row.key): row for row in rows}
        await self._store.desired.put_statuses(list(newest.values()))

    def _unchanged(self, cluster: str, key: object, value: object) -> bool:
        last = self._written.get(cluster, {}).get(key)
        return last is not None and last[0] == value and self._clock.monotonic() - last[1] < REPEAT_SECONDS

    def _remember(self, cluster: str, key: object, value: object) -> None:
        self._written.setdefault(cluster, {})[key] = (value, self._clock.monotonic())
