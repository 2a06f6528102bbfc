"""The look for damage: a database that is away is not one that is damaged, and is looked at again soon (V16)."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from structlog.testing import capture_logs

from cellward.documents.dsse import Ed25519Signer
from cellward.runtime.clock import SystemClock
from cellward.runtime.health import Condition, HealthRegistry
from hub.audit.service import AuditLog
from hub.store.errors import DAMAGED, UNAVAILABLE
from hub.store.log import AuditEvent
from hub.store.sql.store import open_store
from hub.upkeep import LOG, PAGES, Kept, look, verify
from tests.fakes.postgres import Server
from tests.fakes.proxy import proxy


class Looked:
    """What the look for damage needs of a hub."""

    def __init__(self, store: object, audit: AuditLog) -> None:
        self.store, self.audit, self.health = store, audit, HealthRegistry()


def _condition(health: HealthRegistry, name: str) -> Condition:
    return next(found for found in health.get() if found.name == name)


async def _until(health: HealthRegistry, code: str) -> None:
    async with asyncio.timeout(30):
        while {_code(health, PAGES), _code(health, LOG)} != {code}:
            await asyncio.sleep(0.02)


def _code(health: HealthRegistry, name: str) -> str:
    return next((found.code for found in health.get() if found.name == name), "none")


async def test_v16_a_server_that_is_away_is_unavailable_and_seen_to_be_whole_soon_after(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is told of damage, and nobody waits a day for the next look."""
    monkeypatch.setattr("hub.upkeep.AGAIN_SECONDS", 0.05)
    async with proxy(f"127.0.0.1:{postgres.port}") as network:
        url = (await postgres.new()).replace(f":{postgres.port}/", f":{network.port}/")
        store = await open_store(url)
        audit = AuditLog(store.audit, Ed25519Signer.generate()._key, lambda: "", SystemClock())
        await store.audit.put_events([AuditEvent("ada", "lock.set", "Cluster//a", "done")])
        await audit.settle()
        hub, stop, port = Looked(store, audit), asyncio.Event(), network.port
        await network.stop()
        with capture_logs() as said:
            looking = asyncio.create_task(verify(cast("Kept", hub), stop))
            await _until(hub.health, "store/unavailable")
            await network.start(port)
            await _until(hub.health, "")
        stop.set()
        await looking
        await store.close()
    events = {one["event"] for one in said}
    assert "store-not-verified" in events
    assert "store-damaged" not in events


async def test_v13_damage_that_was_found_is_not_forgotten_by_a_look_that_failed() -> None:
    """V13: whoever reads the conditions goes on reading of damage, until a look finds all of it whole."""
    health = HealthRegistry()

    async def damaged() -> str:
        raise DAMAGED("record 7 does not fit")

    async def away() -> str:
        raise UNAVAILABLE("nobody answers")

    async def whole() -> str:
        return "all of it fits"

    assert await look(health, LOG, damaged), "it could look"
    assert not await look(health, LOG, away)
    assert _condition(health, LOG).code == "store/damaged"
    assert await look(health, LOG, whole)
    assert _condition(health, LOG).ok
