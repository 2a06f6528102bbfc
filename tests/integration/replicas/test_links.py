"""Two processes of one hub and their agents' streams: each knows whose they are, and commands reach them from both."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from cellward.errors import CellwardError
from cellward.runtime.clock import SystemClock
from cellward.wire.v1 import link_pb2
from hub.store.changes import link_topic
from hub.store.links import replica_lease
from hub.store.sql.database import Transaction
from hub.store.sql.links import SqlLinks
from hub.store.sql.store import SqlStore, open_store
from hub.store.sql.tables import DatabaseTime, leases
from tests.fakes.ports import FakeLinkHub
from tests.integration.link.streams import LIMITS, joined, opened, welcomed
from tests.integration.link.test_copies import answering

LONG = timedelta(hours=1)
QUICK = replace(LIMITS, twin=0.5)


@asynccontextmanager
async def told(hub: FakeLinkHub, store: SqlStore, names: list[str]) -> AsyncIterator[None]:
    """Pass on what this process or another one changes in the database, as the store of a hub does."""

    async def follow() -> None:
        async with store.changes.subscribe(*map(link_topic, names)) as changed:
            while True:
                for topic in await changed.wait():
                    hub.changes.notify(topic)

    tasks = [asyncio.create_task(store.watch()), asyncio.create_task(follow())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(params=["sqlite", "postgresql"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[tuple[FakeLinkHub, SqlStore]]]:
    """Give two processes with one authority, on one database, both alive, each with its store."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}"
    if request.param == "postgresql":
        url = await request.getfixturevalue("postgres").new()
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        made: list[tuple[FakeLinkHub, SqlStore]] = []
        for replica in ("a", "b"):
            store = await open_store(url, clock)
            stack.push_async_callback(store.close)
            await store.leases.take(replica_lease(replica), replica, LONG)
            shared = made[0][0].hub if made else None
            hub = FakeLinkHub(clock, QUICK, shared=shared, links_at=store.links, replica=replica)
            await stack.enter_async_context(hub.running())
            await stack.enter_async_context(told(hub, store, ["eu-1", "eu-2"]))
            made.append((hub, store))
        yield made


@pytest.fixture
def hubs(pair: list[tuple[FakeLinkHub, SqlStore]]) -> list[FakeLinkHub]:
    """The two processes."""
    return [hub for hub, _ in pair]


def of(hub: FakeLinkHub) -> SqlLinks:
    """Return the streams and commands as this process sees them."""
    assert isinstance(hub.links_at, SqlLinks)
    return hub.links_at


@contextlib.contextmanager
def counted(hub: FakeLinkHub) -> Iterator[list[str]]:
    """Collect the clusters whose streams of this process look at their rows."""
    looked: list[str] = []
    links = hub.ports.links
    look = links.look

    async def noted(cluster: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - as the one it stands for
        looked.append(cluster)
        return await look(cluster)

    links.look = noted  # type: ignore[method-assign]
    try:
        yield looked
    finally:
        links.look = look  # type: ignore[method-assign]


async def test_v2_a_command_given_at_one_process_reaches_the_agent_of_the_other(hubs: list[FakeLinkHub]) -> None:
    """V2: put by any, delivered by the one that holds the stream, its outcome known to both; nobody else is woken."""
    first, second = hubs
    agent, neighbour = await joined(first), await joined(first, "eu-2")
    with pytest.raises(CellwardError) as caught:
        await second.link.link.send_command("eu-1", "resync")
    assert caught.value.code == "link/not-connected"
    async with opened(first, agent) as link, opened(first, neighbour, "n-1") as beside:
        await welcomed(link, agent)
        await welcomed(beside, neighbour)
        with counted(first) as looked:
            sent = await second.link.link.send_command("eu-1", "diagnose", "link")
            command = (await link.receive("command")).command
            assert (command.id, command.kind) == (sent.id, link_pb2.COMMAND_KIND_DIAGNOSE)
            assert command.boot_id == "boot-of-eu-1"
            await link.send(command_result=link_pb2.CommandResult(id=sent.id, ok=True, facts={"opa": "ok"}))
            async with asyncio.timeout(20):
                while (row := await of(second).command(sent.id)) is None or row.state != "done":
                    await asyncio.sleep(0.02)
        assert row.result == {"facts": {"opa": "ok"}}
        assert "eu-2" not in looked, "a stream of another cluster was woken"


async def test_v7_the_newest_stream_of_one_boot_wins_at_whichever_process(hubs: list[FakeLinkHub]) -> None:
    """The older one is drained by the process that holds it, and both know where the agent is."""
    first, second = hubs
    agent = await joined(first)
    async with opened(first, agent) as old:
        await welcomed(old, agent)
        assert (await of(second).live())["eu-1"].replica == "a"
        async with opened(second, agent, "s-2") as new:
            await welcomed(new, agent)
            assert (await old.receive("drain")).drain.after_ms_max > 0
            await old.call.done_writing()
            await old.ended()
            assert (await of(first).live())["eu-1"].stream == "s-2"
    assert first.hub.clusters.locks == []


async def test_v7_two_boots_that_answer_at_two_processes_are_locked_both(hubs: list[FakeLinkHub]) -> None:
    """V7: a copy that dials another process than its original is found as well."""
    first, second = hubs
    agent = await joined(first)
    async with opened(first, agent) as original:
        await welcomed(original, agent)
        answers = asyncio.create_task(answering(original))
        async with opened(second, agent, "s-2") as copy:
            await copy.send(hello=agent.hello(boot_id="a-copy"))
            assert (await copy.ended())[1] == "link/two-live-streams"
        await answers
    assert [str(lock) for lock in first.hub.clusters.locks] == [f"agent/{agent.uid}"]


async def test_v7_a_restarted_agent_meets_its_own_stream_at_another_process(hubs: list[FakeLinkHub]) -> None:
    """Nobody answers on the old one: it is superseded, and nobody is locked."""
    first, second = hubs
    agent = await joined(first)
    async with opened(first, agent) as old:
        await welcomed(old, agent)
        async with opened(second, agent, "s-2") as new:
            await welcomed(new, agent, boot_id="after-the-restart")
            assert (await of(first).live())["eu-1"].stream == "s-2"
    assert first.hub.clusters.locks == []


async def test_v7_a_killed_process_holds_nobody_up(hubs: list[FakeLinkHub]) -> None:
    """Its rows count for nothing once its lease has run out: the agent is welcomed elsewhere without a question."""
    first, second = hubs
    agent = await joined(first)
    async with opened(first, agent) as old:
        await welcomed(old, agent)
        async with opened(second, agent, "s-2") as new:
            rows = of(second)
            await rows._db.write(_run_out)
            assert "eu-1" not in await rows.live()
            await welcomed(new, agent, boot_id="after-the-restart")
            assert await rows.commands("eu-1") == (), "nobody was asked"
            assert (await rows.live())["eu-1"].stream == "s-2"


async def _run_out(tx: Transaction) -> None:
    dead = update(leases).where(leases.c.name == replica_lease("a"))
    await tx.connection.execute(dead.values(expires=DatabaseTime()))
