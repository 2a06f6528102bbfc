"""Clusters, what each is meant to have, and what agents say (``FleetPort`` of ``hub.sync.interfaces``).

Invariants: everything that must outlive the process is in the store when a call returns; desired items are only ever
added or moved, an item that nothing places any more stays as it is (V14); the hub narrows and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar, cast

import structlog

from cellward.audit.record import MAX_INT
from cellward.documents.facts import ClusterFacts
from cellward.documents.names import CellKey
from cellward.identity.locks import LockSet
from cellward.wire.codec import DesiredItem, HubState, check_digest, facts_from_wire
from cellward.wire.errors import BAD_MESSAGE
from hub.authority.lineage import TAKE_OVER
from hub.clusters import rows
from hub.clusters.errors import BAD_CLUSTER_NAME, CLUSTER_EXISTS, SET_BY_ADMIN, UNKNOWN_CELL, UNKNOWN_CLUSTER
from hub.clusters.locks import OwnLocks
from hub.clusters.model import ClusterView, Totals
from hub.clusters.moves import Moves
from hub.clusters.reports import Reports
from hub.documents.placing import Placer, mark_of, present_clusters
from hub.placement.delivery import Invited, reported, withheld
from hub.store.interfaces import CellRow, ClusterRow, Commit, DesiredChange, ReceiptRow, StatusRow, Tables
from hub.store.shared import Batch, Together

if TYPE_CHECKING:
    from datetime import datetime

    from cellward.runtime.clock import Clock
    from cellward.wire.v1 import link_pb2
    from hub.authority.interfaces import Locks
    from hub.store.interfaces import Store

T = TypeVar("T")
#: Names of clusters.
CLUSTER_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?\Z")
#: Rows read at a time.
_PAGE = 500
#: Seconds after which a keyring nobody announced is looked for.
_JUDGE_SECONDS = 30.0
#: Largest statement kept with a receipt, bytes.
_MAX_STATEMENT = 64 * 1024
#: What withholds more is tighter.
_TIGHTNESS: Mapping[str, int] = {"run": 0, "hold": 1, "quarantine": 2}
_log = structlog.get_logger()


class ClusterService:
    """One per process; several processes may share a store."""

    def __init__(self, store: Store, clock: Clock, placer: Placer, locks: Locks | None = None) -> None:
        self._store = store
        self._locks = locks if locks is not None else OwnLocks(store.locks)
        self._clock = clock
        self._placer = placer
        self._streams: dict[str, str] = {}
        self._reports = Reports(store, clock)
        self._rows = Together(store.clusters.get_many, "cluster-rows")
        self._items = Together(store.desired.items_of, "desired-items")
        # A fleet that joins says its facts at once. Few in one: of many cells each of them is long.
        self._placing: Batch[Tables, None] = Batch(store.transact, "placing", most=8)
        #: Clusters to place again, followed by a root task.
        self.moves = Moves(self._place_on, clock)

    async def start(self) -> None:
        """Place on clusters what no process did since their facts or invites changed."""
        for row in await present_clusters(self._store):
            if reported(row.report) is not None and row.placed != mark_of(row):
                await self._place_on(row.name)

    # Clusters

    async def create_cluster(
        self, name: str, created_by: str, invited: Invited | None = None, *, tables: Tables | None = None
    ) -> ClusterView:
        """Add a cluster, given nothing without ``invited``; raises fleet/bad-cluster-name, fleet/cluster-exists."""
        if not CLUSTER_NAME.match(name):
            raise BAD_CLUSTER_NAME(f"{name[:80]!r} cannot be the name of a cluster")
        named = invited.to_json() if invited is not None else {}

        async def job(tables: Tables) -> ClusterRow:
            if await tables.clusters.get(name) is not None:
                raise CLUSTER_EXISTS(f"there is already a cluster {name}", cluster=name)
            return await tables.clusters.create(name, created_by, named)

        return self._view(await self._within(tables, job), 0, LockSet())

    async def invite(
        self,
        name: str,
        invited: Invited | None,
        mint: Callable[[Tables], Awaitable[T]],
        *,
        commit: Commit[T] | None = None,
    ) -> T:
        """Make a join token, and say what the cluster is meant to be; place again what that allows.

        Without ``invited`` that stays as it is. Returns what ``mint`` does; raises fleet/unknown-cluster.
        """

        async def job(tables: Tables) -> T:
            row = await _present(tables, name)
            if invited is not None and dict(row.invited) != invited.to_json():
                await tables.clusters.set_invited(name, invited.to_json())
                # All of it again: what was withheld until now has a revision that was passed already.
                await self._placer.place_on(tables, replace(row, invited=invited.to_json()), renumber=True)
            return await mint(tables)

        return await (commit or self._store.transact)(job)

    async def cluster(self, name: str) -> ClusterView:
        """One cluster; raises fleet/unknown-cluster."""
        row = await self._cluster(name)
        elsewhere = await self._store.links.live([name])
        return self._view(row, await self._store.desired.revision(name), await self._locks.current(), elsewhere)

    async def clusters(self) -> tuple[ClusterView, ...]:
        """All clusters by name, each with revision 0: asking for a thousand revisions is for nobody's list."""
        locks, elsewhere = await self._locks.current(), await self._store.links.live()
        return tuple(self._view(row, 0, locks, elsewhere) for row in await present_clusters(self._store))

    async def remove_cluster(self, name: str, *, tables: Tables | None = None) -> int:
        """Decommission a cluster; returns how many join tokens went with it. Raises fleet/unknown-cluster.

        Its streams end, its identities count for nothing, nothing is placed on it any more. What it runs goes on under
        the agent's guard until somebody uninstalls that: a hub deletes nothing (design §2).
        """

        async def job(tables: Tables) -> int:
            await _present(tables, name)
            await tables.clusters.remove(name)
            return await tables.tokens.revoke(name)

        tokens = await self._within(tables, job)
        self._placer.forget(name)
        self.moves.forget(name)
        self._reports.forget(name)
        return tokens

    async def totals(self) -> Totals:
        """Counts for gauges, without reading a row."""
        return Totals(await self._store.clusters.count(), len(self._streams), await self._store.desired.count())

    async def retire_certificates(self, name: str, *, tables: Tables | None = None) -> int:
        """Let no certificate issued so far count; returns the new floor. Raises fleet/unknown-cluster."""

        async def job(tables: Tables) -> int:
            await _present(tables, name)
            return await tables.clusters.retire_certificates(name, TAKE_OVER)

        return await self._within(tables, job)

    # Cells

    async def cells(self, project: str = "", cell: str = "") -> tuple[CellRow, ...]:
        """Desired items of all clusters with what agents last said, by project, cell, environment and cluster."""
        return await _cells(self._store, project, cell)

    async def cell(self, project: str, cell: str) -> tuple[CellRow, ...]:
        """One cell everywhere; raises fleet/unknown-cell."""
        found = await self.cells(project, cell)
        if not found:
            raise UNKNOWN_CELL(f"no cluster is meant to have {project}/{cell}", project=project, cell=cell)
        return found

    async def away(self, clusters: Iterable[str]) -> Mapping[str, datetime | None]:
        """Those of some clusters whose link is down, each with when it was last seen; None for never.

        What their agents reported may be over: nobody knows.
        """
        named = sorted(set(clusters) - self._streams.keys())
        elsewhere = await self._store.links.live(named)
        rows = await self._store.clusters.get_many([name for name in named if name not in elsewhere])
        return {name: row.last_seen for name, row in rows.items()}

    async def narrow(
        self, cluster: str, key: CellKey, state: HubState, *, admin: bool = True, tables: Tables | None = None
    ) -> None:
        """Hold or quarantine an item, or lift that; it never changes what is desired.

        Raises fleet/unknown-cell, and fleet/set-by-admin where an admin set what another role would loosen.
        """

        async def job(tables: Tables) -> None:
            row = await tables.desired.get(cluster, key)
            if row is None:
                raise UNKNOWN_CELL(f"cluster {cluster} is not meant to have {'/'.join(key)}", cluster=cluster)
            kept = row.hub_state_role
            if row.hub_state != "run" and kept != "deployer":  # an older hub did not say who: as if an admin
                kept = "admin"
                if not admin and _TIGHTNESS[state] < _TIGHTNESS[row.hub_state]:
                    raise SET_BY_ADMIN(f"{row.hub_state} of {'/'.join(key)} on {cluster} was set by an admin")
            role = "" if state == "run" else "admin" if admin or kept == "admin" else "deployer"
            change = DesiredChange(cluster, key, row.deployment_digest, row.evidence, state, hub_state_role=role)
            await tables.desired.upsert_many([change])

        await self._within(tables, job)

    # What agents say: FleetPort

    async def hello(self, cluster: str, hello: link_pb2.Hello) -> None:
        """Keep what an agent says of itself, and place again when its facts changed."""
        row = await self._cluster(cluster)
        # Read back strictly: names that no document could have must not choose anything.
        facts = ClusterFacts.from_json(facts_from_wire(cluster, hello.facts).to_json())
        await self._reports.seen(cluster, rows.hello_report(hello, facts))
        if reported(row.report) != facts:
            _log.info("facts-changed", cluster=cluster, digest=facts.digest())
        # By what it was placed, not by what it said before: a process may have ended in between.
        if row.placed != mark_of(replace(row, report={**row.report, "facts": facts.to_json()})):
            await self.moves.changed(cluster)

    async def connected(self, cluster: str, stream_id: str) -> None:
        """Note that a stream is open."""
        self._streams[cluster] = stream_id
        self._reports.forget(cluster)

    async def disconnected(self, cluster: str, stream_id: str) -> None:
        """Note that a stream ended; a newer one of the same cluster stays."""
        if self._streams.get(cluster) == stream_id:
            del self._streams[cluster]
            self._reports.forget(cluster)
            await self._reports.seen(cluster)

    async def revision(self, cluster: str) -> int:
        """Newest revision of a cluster's items."""
        return await self._store.desired.revision(cluster)

    async def items(self, cluster: str, since: int) -> Sequence[DesiredItem]:
        """Items changed after a revision, in order; a fleet that is woken together is read together."""
        held, row_of = (await self._items.join(cluster))[cluster], await self._cluster(cluster)
        invited, said = Invited.from_json(row_of.invited), reported(row_of.report)
        self._reports.known(cluster, (row.key for row in held))
        return [
            DesiredItem(
                row.revision,
                row.key.project,
                row.key.cell,
                row.key.environment,
                row.deployment_digest,
                tuple(row.evidence),
                cast("HubState", row.hub_state),
            )
            for row in held
            if row.revision > since
            and self._placer.usable(row.key, row.deployment_digest)
            and not withheld(invited, said, row.key.project, row.key.environment)
        ]

    async def placed(self, cluster: str) -> frozenset[str]:
        """Digests of the documents that the cluster is given: those of its items and of their evidence."""
        items = await self.items(cluster, 0)
        return frozenset(digest for item in items for digest in (item.deployment_digest, *item.evidence))

    async def receipt(self, cluster: str, receipt: link_pb2.Receipt) -> None:
        """Keep the outcome of an item; one about an item that this cluster never had is dropped.

        Raises wire/bad-message for a revision that no hub gives: it would spoil the transaction it shares with others.
        """
        if receipt.revision > MAX_INT:
            raise BAD_MESSAGE("the revision of a receipt is beyond any that is given")
        key = CellKey(receipt.project, receipt.cell, receipt.environment)
        if not await self._reports.is_item(cluster, key):
            _log.warning("receipt-for-nothing", cluster=cluster, key="/".join(key)[:200])
            return
        await self._reports.receipt(
            ReceiptRow(
                cluster,
                key,
                receipt.revision,
                check_digest(receipt.deployment_digest),
                receipt.accepted,
                {"refusals": rows.refusals_json(receipt.refusals)},
                receipt.statement[:_MAX_STATEMENT],
                self._clock.now(),
            )
        )

    async def cell_status(self, cluster: str, status: link_pb2.CellStatus) -> None:
        """Keep the state of a cell; one of a cell that this cluster was never meant to have is dropped."""
        key = CellKey(status.project, status.cell, status.environment)
        if not await self._reports.is_item(cluster, key):
            _log.warning("status-for-nothing", cluster=cluster, key="/".join(key)[:200])
            return
        await self._reports.cell(StatusRow(cluster, key, rows.cell_body(status), self._clock.now()))

    async def agent_status(self, cluster: str, status: link_pb2.AgentStatus) -> None:
        """Keep the state of an agent."""
        await self._reports.agent(cluster, rows.status_report(status))

    # Inner parts

    async def _cluster(self, name: str) -> ClusterRow:
        row = (await self._rows.join(name)).get(name)
        if row is None or row.removed_at is not None:
            raise UNKNOWN_CLUSTER(f"there is no cluster {name}", cluster=name)
        return row

    def _view(
        self, row: ClusterRow, revision: int, locks: LockSet, elsewhere: Container[str] = frozenset()
    ) -> ClusterView:
        lock = locks.hit(cluster=row.name, uid=row.uid, serial=row.serial, key=row.spki_sha256)
        return rows.view_of(
            row, connected=row.name in self._streams or row.name in elsewhere, revision=revision, lock=lock
        )

    async def _place_on(self, cluster: str) -> None:
        async def place(tables: Tables) -> None:
            row = await tables.clusters.get(cluster)
            # It may have been removed since it said so.
            if row is not None and row.removed_at is None:
                await self._placer.place_on(tables, row)

        await self._placing.run(place)

    async def _within(self, tables: Tables | None, job: Callable[[Tables], Awaitable[T]]) -> T:
        """Run ``job`` in the transaction of the caller, or in one of its own."""
        return await (self._store.transact(job) if tables is None else job(tables))


async def _cells(tables: Tables, project: str, cell: str) -> tuple[CellRow, ...]:
    found: list[CellRow] = []
    cursor = ""
    while True:
        page = await tables.desired.statuses("", project, cell, cursor, _PAGE)
        found += page.items
        cursor = page.cursor
        if not cursor:
            return tuple(found)


async def _present(tables: Tables, name: str) -> ClusterRow:
    row = await tables.clusters.get(name)
    if row is None or row.removed_at is not None:
        raise UNKNOWN_CLUSTER(f"there is no cluster {name}", cluster=name)
    return row
