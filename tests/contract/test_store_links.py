"""What every store promises of streams and commands: any process knows, and one cluster's wake nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from hub.store.changes import link_topic
from hub.store.links import CommandRow, PresenceRow, boot_digest, replica_lease
from hub.store.sql.store import SqlStore, open_store
from tests.contract.store_rows import NOW
from tests.fakes.clock import ManualClock

LONG = timedelta(hours=1)
BOOT = boot_digest("boot-1")


def stream(cluster: str, replica: str, name: str = "s-1") -> PresenceRow:
    """Return a row."""
    return PresenceRow(cluster, replica, name, BOOT, NOW)


def command(number: int, cluster: str = "c1", boot: str = BOOT) -> CommandRow:
    """Return a command."""
    made = NOW + timedelta(seconds=number)
    return CommandRow(f"id-{number}", cluster, "resync", "", boot, made, "ada", NOW + timedelta(minutes=2))


@pytest.fixture
async def other(url: str, clock: ManualClock, store: SqlStore) -> AsyncIterator[SqlStore]:
    """Give the store as a second process has it."""
    opened = await open_store(url, clock)
    yield opened
    await opened.close()


async def test_a_stream_is_known_while_its_process_lives(store: SqlStore, other: SqlStore) -> None:
    """Its lease says so: nothing is written for a stream that stays open, and none is left of a killed process."""
    await store.leases.take(replica_lease("a"), "a", LONG)
    await store.links.opened([stream("c1", "a"), stream("c2", "a"), stream("c3", "dead")])
    assert set(await other.links.live()) == {"c1", "c2"}
    assert await other.links.live(["c2", "c3"]) == {"c2": stream("c2", "a")}
    assert await other.links.live([]) == {}
    await store.leases.take(replica_lease("a"), "a", timedelta(0))
    assert await other.links.live() == {}


async def test_the_newest_stream_stays_whoever_closes_the_older_one(store: SqlStore, other: SqlStore) -> None:
    """An agent that moved: the process it left ends the old stream later."""
    for replica in ("a", "b"):
        await store.leases.take(replica_lease(replica), replica, LONG)
    await store.links.opened([stream("c1", "a")])
    await other.links.opened([stream("c1", "b", "s-2")])
    await store.links.closed([("c1", "s-1")])
    assert (await store.links.live())["c1"].replica == "b"
    assert (await store.links.look(["c1"]))["c1"].holder == stream("c1", "b", "s-2")
    await other.links.closed([("c1", "s-2")])
    assert await store.links.live() == {}


async def test_one_clusters_stream_wakes_nobody_elses(store: SqlStore, other: SqlStore) -> None:
    """Neither in this process nor in another: a topic for each cluster, and a stream that ends has none."""
    topics = [link_topic(f"c{number}") for number in range(50)]
    for name in ("c1", "c2"):
        await store.clusters.create(name, "ada")
    watching = asyncio.create_task(store.watch())
    async with store.changes.subscribe(*topics, "desired:c1", "desired:c2", "clusters", "policy") as here:
        await other.links.opened([stream("c1", "b")])
        await other.links.closed([("c1", "s-1")])
        await other.clusters.update_seen("c2", NOW, {"said": 1})
        async with asyncio.timeout(10):
            assert await here.wait() == {link_topic("c1")}
        await store.links.put_command(command(1, "c2"), 5)
        async with asyncio.timeout(10):
            assert await here.wait() == {link_topic("c2")}
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_v2_a_command_is_taken_once_by_the_boot_it_is_for(store: SqlStore, other: SqlStore) -> None:
    """Whichever processes ask at once; another boot, another cluster and an expired one get nothing."""
    for number in (1, 2):
        assert await other.links.put_command(command(number), 10)
    assert await other.links.put_command(command(3, boot=boot_digest("another")), 10)
    assert await other.links.put_command(command(4, "c2"), 10)
    assert await other.links.put_command(replace(command(5), expires_at=NOW - LONG), 10)
    assert BOOT in (await store.links.look(["c1"]))["c1"].waiting
    taken = await asyncio.gather(*(each.links.take_commands("c1", BOOT) for each in (store, other, store)))
    assert [row.id for rows in taken for row in rows] == ["id-1", "id-2"]
    assert {row.state for rows in taken for row in rows} == {"sent"}
    assert [row.id for row in await store.links.take_commands("c2", BOOT)] == ["id-4"]


async def test_commands_that_wait_are_bounded(store: SqlStore) -> None:
    """For each cluster; what expired waits for nothing."""
    assert await store.links.put_command(replace(command(0), expires_at=NOW - LONG), 2)
    assert await store.links.put_command(command(1), 2)
    assert await store.links.put_command(command(2), 2)
    assert not await store.links.put_command(command(3), 2)
    assert await store.links.put_command(command(4, "c2"), 2)


async def test_v3_the_first_outcome_of_its_own_cluster_stays(store: SqlStore, other: SqlStore) -> None:
    """V3: by the name in the certificate; a second outcome changes nothing, and who waits for it is woken."""
    await store.links.put_command(command(1), 5)
    await store.links.take_commands("c1", BOOT)
    assert not await other.links.finish_command("c2", "id-1", "done", {})
    assert not await other.links.finish_command("c1", "id-9", "done", {})
    async with other.changes.subscribe(link_topic("c1")) as changed:
        assert await other.links.finish_command("c1", "id-1", "done", {"facts": {"opa": "ok"}})
        async with asyncio.timeout(10):
            await changed.wait()
    assert not await store.links.finish_command("c1", "id-1", "refused", {})
    row = await store.links.command("id-1")
    assert row is not None
    assert (row.state, row.result) == ("done", {"facts": {"opa": "ok"}})
    assert await store.links.commands("c1") == (row,)


async def test_what_ended_a_day_ago_is_forgotten(store: SqlStore, clock: ManualClock) -> None:
    """Processes that are gone with their streams, and commands; what lives stays, and leases of work too."""
    await store.leases.take(replica_lease("dead"), "dead", -timedelta(days=10_000))
    await store.leases.take(replica_lease("a"), "a", timedelta(days=10_000))
    await store.leases.take("job", "dead", -timedelta(days=10_000))
    await store.links.opened([stream("c1", "dead"), stream("c2", "a")])
    await store.links.put_command(replace(command(1), expires_at=NOW - timedelta(days=2)), 5)
    await store.links.put_command(command(2), 5)
    await store.prune()
    held = {name: view.holder for name, view in (await store.links.look(["c1", "c2"])).items()}
    assert held == {"c1": None, "c2": stream("c2", "a")}
    assert await store.leases.get(replica_lease("dead")) is None
    assert await store.leases.get("job") is not None
    assert [row.id for row in await store.links.commands("c1")] == ["id-2"]
    del clock
