"""Who is known: ``hub.sync`` asks, rows answer, and are remembered until one of them changes."""

from __future__ import annotations

from dataclasses import replace

from hub.clusters.locks import LocksInForce
from hub.store.changes import CLUSTERS, ChangeBus
from hub.store.interfaces import ClusterRow, ClusterStore
from hub.store.shared import Remembered, Together
from hub.sync.interfaces import Standing

#: Bindings of clusters kept in memory.
BINDINGS = 10_000


class Directory:
    """Bindings, and who may not speak."""

    def __init__(self, clusters: ClusterStore, locks: LocksInForce, changes: ChangeBus) -> None:
        self._clusters = clusters
        self._locks = locks
        self._rows = Together(clusters.get_many, "cluster-rows")
        self._bindings = Remembered(self._read, changes, CLUSTERS, bound=BINDINGS)

    async def binding(self, cluster: str) -> ClusterRow | None:
        """What is bound to a cluster, without its report; None before somebody joined under the name."""
        return await self._bindings.get(cluster)

    async def used(self, cluster: str, spki_sha256: str) -> None:
        """The newest certificate was used."""
        await self._clusters.used(cluster, spki_sha256)

    async def moved(self, cluster: str, platform_uid: str, platform_ca: str) -> None:
        """Note where the cluster's installation runs."""
        await self._clusters.set_platform(cluster, platform_uid, platform_ca)

    async def standing(self) -> Standing:
        """Who may not speak."""
        locks = await self._locks.current()
        found = await self._clusters.standing()
        uids = locks.subjects("agent")
        names = await self._clusters.names_of_uids(uids) if uids else {}
        return Standing(locks, {name: uid for uid, name in names.items()}, found.removed, found.floors)

    async def _read(self, cluster: str) -> ClusterRow | None:
        row = (await self._rows.join(cluster)).get(cluster)
        bound = row is not None and row.uid and row.removed_at is None
        # What it last said of itself is most of a row, and no part of a binding.
        return replace(row, report={}) if row is not None and bound else None
