"""What every store promises of leases: one holder at a time, and a former one writes nothing (V13)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from cellward.documents.dsse import Ed25519Signer
from cellward.errors import CellwardError
from hub.audit.service import AuditLog
from hub.leases import AUDIT, TIMESTAMP, UPKEEP, Leases
from hub.policy.service import TufRepository
from hub.store.interfaces import Commit, Tables
from hub.store.log import AuditEvent
from hub.store.sql.store import SqlStore, open_store
from tests.fakes.clock import ManualClock
from tests.fakes.policy import PolicyWorld, denying, now

KEY = Ed25519Signer.generate()
LONG = timedelta(hours=1)
#: A lease that has run out when it is there: its holder is paused from then on.
NONE = timedelta(0)
EVENT = AuditEvent("ada", "document.upload", "Document//a", "done")


@pytest.fixture
async def other(url: str, clock: ManualClock, store: SqlStore) -> AsyncIterator[SqlStore]:
    """Give the store as a second process has it."""
    opened = await open_store(url, clock)
    yield opened
    await opened.close()


async def test_one_has_it_until_it_runs_out(store: SqlStore, other: SqlStore) -> None:
    """By the database's clock: nobody's own."""
    mine = await store.leases.take("job", "a", LONG)
    assert mine is not None
    assert mine.token == 1
    assert await other.leases.take("job", "b", LONG) is None
    again = await store.leases.take("job", "a", NONE)
    assert again is not None
    assert again.token == 1
    theirs = await other.leases.take("job", "b", LONG)
    assert theirs is not None
    assert (theirs.holder, theirs.token) == ("b", 2)
    assert await store.leases.get("job") == theirs
    assert await store.leases.take("job", "a", LONG) is None


async def test_of_many_that_ask_at_once_one_has_it(store: SqlStore, other: SqlStore) -> None:
    """Again and again, each time when it has just run out."""
    tokens = []
    for _ in range(5):
        life = LONG
        asked = [(store, "a"), (other, "b"), (store, "c"), (other, "d")]
        found = await asyncio.gather(*(each.leases.take("job", name, life) for each, name in asked))
        held = [one for one in found if one is not None]
        assert len(held) == 1
        tokens.append(held[0].token)
        await store.leases.release(held[0].holder)
    assert tokens == [1, 2, 3, 4, 5]


async def test_one_that_is_given_up_is_free_at_once(store: SqlStore, other: SqlStore) -> None:
    """Nobody waits for its end; the leases of others stay."""
    await store.leases.take("job", "a", LONG)
    await store.leases.take("other", "b", LONG)
    await store.leases.release("a")
    assert await other.leases.take("job", "c", LONG) is not None
    assert await other.leases.take("other", "c", LONG) is None


async def test_a_write_of_who_was_followed_leaves_nothing(store: SqlStore, other: SqlStore) -> None:
    """The token is looked at in the transaction of the write: refused, with all that goes with it."""
    paused, next_ = Leases(store, "a", life=NONE), Leases(other, "b", life=LONG)
    await paused.look()
    commit: Commit[None] | None = paused.fence(UPKEEP)
    assert commit is not None

    async def job(tables: Tables) -> None:
        await tables.clusters.create("c1", "ada")

    await next_.look()
    with pytest.raises(CellwardError) as caught:
        await commit(job)
    assert caught.value.code == "store/lease-moved"
    assert await store.clusters.list() == ()
    follower: Commit[None] | None = next_.fence(UPKEEP)
    assert follower is not None
    await follower(job)
    assert len(await store.clusters.list()) == 1


async def test_one_taken_while_a_write_runs_refuses_it(store: SqlStore, other: SqlStore, url: str) -> None:
    """The other one begins between the look at the token and the commit: one of both is decided again."""
    if url.startswith("sqlite"):
        pytest.skip("SQLite has one writer")
    await store.leases.take("job", "a", NONE)
    lease = await store.leases.get("job")
    assert lease is not None
    looked, go = asyncio.Event(), asyncio.Event()
    runs = 0

    async def job(tables: Tables) -> None:
        nonlocal runs
        runs += 1
        await tables.leases.check(lease)
        looked.set()
        await go.wait()
        # What the next holder reads and writes as well.
        await tables.meta.put("done-by", b"a")

    slow = asyncio.create_task(store.transact(job))
    await looked.wait()

    async def follow(tables: Tables) -> None:
        assert await tables.leases.take("job", "b", LONG) is not None
        await tables.meta.get("done-by")
        await tables.meta.put("done-by", b"b")

    await other.transact(follow)
    go.set()
    with pytest.raises(CellwardError) as caught:
        await slow
    assert caught.value.code == "store/lease-moved"
    assert runs == 2
    assert await store.meta.get("done-by") == b"b"


async def test_v13_a_paused_sequencer_gives_nothing_its_place(store: SqlStore, other: SqlStore) -> None:
    """It goes on after another has taken over: refused, and the record is in the log once, by the other."""
    paused, next_ = Leases(store, "a", life=NONE), Leases(other, "b", life=LONG)
    await paused.look()
    await next_.look()
    logs = [AuditLog(each.audit, KEY._key, lambda: "", ManualClock(now())) for each in (store, other)]
    await store.audit.put_events([EVENT])
    with pytest.raises(CellwardError) as caught:
        await logs[0].settle(paused.held(AUDIT))
    assert caught.value.code == "store/lease-moved"
    assert await store.audit.size() == 0
    await logs[1].settle(next_.held(AUDIT))
    assert await store.audit.size() == 1
    assert await store.audit.waiting(10) == ()


async def test_v13_who_shares_a_transaction_with_a_refused_sequencer_is_kept(store: SqlStore, other: SqlStore) -> None:
    """A record that everybody may append, in the same group: it is in the log, and its writer hears so."""
    paused, next_ = Leases(store, "a", life=NONE), Leases(other, "b", life=LONG)
    await paused.look()
    await next_.look()
    log = AuditLog(store.audit, KEY._key, lambda: "", ManualClock(now()))
    await store.audit.put_events([EVENT])
    outcomes = await asyncio.gather(
        log.settle(paused.held(AUDIT)),
        log.append(AuditEvent("hub", "hub.start", "hub", "done")),
        return_exceptions=True,
    )
    assert getattr(outcomes[0], "code", outcomes[0]) == "store/lease-moved"
    assert outcomes[1] == 0
    assert len(await store.audit.waiting(10)) == 1


async def test_a_paused_signer_of_timestamps_publishes_nothing(store: SqlStore, other: SqlStore) -> None:
    """What agents are served is what the next holder signs."""
    world = PolicyWorld()
    paused, next_ = Leases(store, "a", life=NONE), Leases(other, "b", life=LONG)
    clock = ManualClock(now())
    hubs = [TufRepository(each.tuf, world.hub_key, clock, realm=lambda: world.realm) for each in (store, other)]
    await hubs[0].publish(world.publish(denying("Bad")))
    await paused.look()
    await next_.look()
    before = await hubs[1].timestamp_version()
    clock.advance(11 * 3600)
    with pytest.raises(CellwardError) as caught:
        await hubs[0].renew_if_due(paused.fence(TIMESTAMP))
    assert caught.value.code == "store/lease-moved"
    assert await hubs[1].timestamp_version() == before
    renewed = await hubs[1].renew_if_due(next_.fence(TIMESTAMP))
    assert renewed is not None
    assert await hubs[0].timestamp_version() == renewed > before


async def test_a_paused_pruner_prunes_nothing(
    store: SqlStore, other: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before it deletes."""
    monkeypatch.setattr("hub.store.sql.database.KEPT_CHANGES", 0)
    paused, next_ = Leases(store, "a", life=NONE), Leases(other, "b", life=LONG)
    await paused.look()
    await next_.look()
    with pytest.raises(CellwardError) as caught:
        await store.prune(paused.held(UPKEEP))
    assert caught.value.code == "store/lease-moved"
    await other.prune(next_.held(UPKEEP))


async def test_a_process_that_ends_hands_over_at_once(store: SqlStore, other: SqlStore) -> None:
    """Its leases are free when it is gone, so that nothing waits for their end."""
    ending, next_ = Leases(store, "a"), Leases(other, "b")
    stop = asyncio.Event()
    following = asyncio.create_task(ending.follow(stop))
    async with asyncio.timeout(10):
        while ending.held(AUDIT) is None:
            await asyncio.sleep(0.01)
    await next_.look()
    assert next_.held(AUDIT) is None
    stop.set()
    await following
    assert ending.held(AUDIT) is None
    await next_.look()
    found = next_.held(AUDIT)
    assert found is not None
    assert found.token == 2
