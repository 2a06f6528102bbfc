"""What a running hub does about itself: gauges, conditions of the store, and what the store can forget."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from cellward.errors import CellwardError
from cellward.runtime.health import HealthRegistry
from cellward.runtime.tasks import stopped_within
from hub.audit.intake import Intake
from hub.audit.service import AuditLog
from hub.clusters.service import ClusterService
from hub.documents.realm import RealmService
from hub.front.watch import Fronts
from hub.leases import UPKEEP, Leases
from hub.metrics.own import Facts
from hub.store.errors import DAMAGED, LEASE_MOVED
from hub.store.interfaces import Store
from hub.sync.tls import RotatingLeaf

_log = structlog.get_logger()
#: Seconds between two looks.
REFRESH_SECONDS = 5.0
#: Looks between two prunings of the store: an hour.
PRUNE_TURNS = 720
#: Seconds between two looks for damage, which read the whole database.
VERIFY_SECONDS = 24 * 3600.0
#: The same after a look that could not be had to its end: the database was away.
AGAIN_SECONDS = 60.0
#: Conditions of what is looked at.
PAGES, LOG = "store-pages", "audit-log"


class Kept(Protocol):
    """The parts of a hub that are looked after."""

    store: Store
    audit: AuditLog
    clusters: ClusterService
    realm: RealmService
    health: HealthRegistry
    leaf: RotatingLeaf
    fronts: Fronts
    intake: Intake
    leases: Leases
    gauges: Facts | None


async def refresh(hub: Kept, stop: asyncio.Event) -> None:
    """Refresh the hub's gauges and conditions; a store that does not answer is a condition, never a crash."""
    pruned = -PRUNE_TURNS
    for turn in itertools.count():
        if stop.is_set():
            return
        try:
            # Another process may have adopted the root.
            await hub.realm.current()
            totals = await hub.clusters.totals()
            hub.gauges = Facts(
                connected_agents=totals.connected,
                clusters=totals.clusters,
                desired_items=totals.items,
                audit_size=await hub.store.audit.size(),
                certificates={"hub": hub.leaf.leaf.not_after.timestamp()},
            )
            hub.fronts.look()
            hub.intake.look()
            if turn - pruned >= PRUNE_TURNS and await prune(hub):
                pruned = turn
            await hub.store.check()
            hub.health.set("store", ok=True)
        except CellwardError as error:
            _log.warning("housekeeping-failed", code=error.code, reason=error.message)
            hub.health.set("store", ok=False, code=error.code, message=error.message)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is shown and tried again
            _log.warning("housekeeping-failed", error=str(error))
            hub.health.set("store", ok=False, code="store/unavailable", message="The store does not answer.")
        await stopped_within(stop, REFRESH_SECONDS)


async def read_whole(audit: AuditLog) -> str:
    """Compare the whole log with its hashes; return what was done, raises store/damaged."""
    await audit.verify()
    return "every record fits its hash"


async def look(health: HealthRegistry, name: str, job: Callable[[], Awaitable[str]]) -> bool:
    """Set a condition by whether ``job`` finds what it looks at whole; return whether it could look at all.

    A look that fails is a condition as well, but no damage: it takes no finding of an earlier look away.
    """
    try:
        health.set(name, ok=True, message=await job())
    except CellwardError as error:
        if error.code == DAMAGED.code:
            _log.error("store-damaged", condition=name, code=error.code, reason=error.message)
        else:
            _log.warning("store-not-verified", condition=name, code=error.code, reason=error.message)
            if any(found.name == name and found.code == DAMAGED.code for found in health.get()):
                return False
        health.set(name, ok=False, code=error.code, message=error.message)
        return error.code == DAMAGED.code
    return True


async def prune(hub: Kept) -> bool:
    """Forget what no process needs, if this one is to do it; returns whether it did."""
    lease = hub.leases.held(UPKEEP)
    if lease is None:
        return False
    try:
        await hub.store.prune(lease)
    except CellwardError as error:
        if error.code != LEASE_MOVED.code:
            raise
        _log.info("lease-moved", name=UPKEEP, reason=error.message)
        return False
    return True


async def verify(hub: Kept, stop: asyncio.Event) -> None:
    """Look for damage of the database after the start and once a day; found, it is a condition until it is gone."""
    while not stop.is_set():
        pages = await look(hub.health, PAGES, hub.store.verify)
        log = await look(hub.health, LOG, lambda: read_whole(hub.audit))
        await stopped_within(stop, VERIFY_SECONDS if pages and log else AGAIN_SECONDS)
