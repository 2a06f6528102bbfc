"""Desired items: what a hub may say costs at most itself, and nothing old overwrites what is newer (V13, V14, V16)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agent.audit.recorder import Recorder
from agent.link import desired
from agent.link.desired import DesiredItems, Listing
from agent.link.errors import ITEMS_DIFFER
from agent.link.listed import Bounds
from agent.spool.errors import FULL
from agent.spool.state import SqliteStateDb, open_state
from cellward.audit.record import parse_record
from cellward.runtime.health import HealthRegistry
from cellward.wire.codec import DesiredItem, HubState, item_to_wire, items_digest
from cellward.wire.v1 import link_pb2
from tests.fakes.clock import ManualClock
from tests.fakes.linked_agent import FakePorts

REALM = "sha256:" + "a" * 64
D1, D2 = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def item(cell: str, revision: int, state: HubState = "run", digest: str = D1) -> DesiredItem:
    """A desired item."""
    return DesiredItem(revision, "shop", cell, "dev", digest, (D2,), state)


#: What no agent can use, each for another reason; the last two can be named in a receipt.
LONG = item("a-cell-name-of-more-than-twenty-four", 3)
DOUBLE = item("a--b", 3)
NO_DIGEST = item("cart", 3, digest="md5:1")
BEYOND = item("cart", 2**60)
MUCH_EVIDENCE = replace(item("cart", 3), evidence=(D2,) * 65)
BAD_EVIDENCE = replace(item("cart", 3), evidence=("x",))


@dataclass
class Scene:
    """The subject over a real state, and what it asked for."""

    db: SqliteStateDb
    ports: FakePorts
    health: HealthRegistry
    subject: DesiredItems
    reconnects: list[None] = field(default_factory=list)

    async def session(self, epoch: str = "e1") -> Listing:
        """A session that was welcomed."""
        listing = Listing()
        await self.subject.position(listing)
        await self.subject.welcomed(listing, epoch)
        return listing

    async def named(self, listing: Listing, *items: DesiredItem) -> None:
        """The hub names items."""
        for one in items:
            await self.subject.take(listing, item_to_wire(one))

    async def marked(self, listing: Listing, revision: int, *items: DesiredItem) -> bool:
        """The hub says that this is all, up to a revision."""
        mark = link_pb2.RevisionMark(revision=revision, items_digest=items_digest(items))
        return await self.subject.reached(listing, mark)

    async def revision(self) -> str | None:
        """The durable revision."""
        return await self.db.meta.get(desired.REVISION)

    def code(self) -> str:
        """Code of the condition."""
        return next(one.code for one in self.health.get() if one.name == desired.CONDITION)

    async def findings(self) -> list[str]:
        """Objects of the findings on record."""
        records = [parse_record(one.data) for one in await self.db.audit.peek(1000, 1 << 20)]
        return [record.object for record in records if record.decision == "finding"]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """An agent without items."""
    clock = ManualClock()
    db = (await open_state(tmp_path, clock=clock)).db
    health, ports, reconnects = HealthRegistry(clock), FakePorts(), list[None]()
    recorder = Recorder(db.audit, clock, realm=REALM, uid=db.uid, cluster=lambda: "eu-1", health=health)
    subject = DesiredItems(db, ports, recorder, health, clock, lambda: reconnects.append(None))
    yield Scene(db, ports, health, subject, reconnects)
    await subject.close()
    await db.close()


@pytest.mark.parametrize(
    ("bad", "answered"),
    [
        (LONG, False),
        (DOUBLE, False),
        (NO_DIGEST, False),
        (BEYOND, False),
        (MUCH_EVIDENCE, True),
        (BAD_EVIDENCE, True),
    ],
    ids=["long", "double", "no-digest", "beyond", "much-evidence", "bad-evidence"],
)
async def test_v16_an_item_nobody_can_use_costs_itself_and_nothing_else(
    scene: Scene, bad: DesiredItem, answered: bool
) -> None:
    """It is on record once, answered where that can be said, compared like any other, and the rest goes on."""
    one, other = item("a", 1), item("b", 4)
    for _ in range(3):
        listing = await scene.session()
        await scene.named(listing, one, bad, other)
        assert await scene.marked(listing, 4, one, bad, other)
    assert [held.cell for held in await scene.db.items.list()] == ["a", "b"]
    assert await scene.revision() == "4"
    assert not scene.reconnects, "both sides know of the same items"
    assert scene.code() == "link/item-unusable"
    assert len(await scene.findings()) == 1
    assert [(r.accepted, r.refusals[0].code) for r in scene.ports.refused] == [(False, "wire/bad-message")] * answered
    await scene.named(listing, replace(bad, cell="c", revision=5, deployment_digest=D1, evidence=()))
    assert scene.ports.items[-1].cell == "c"


async def test_an_item_that_was_mended_is_used_and_the_alarm_ends(scene: Scene) -> None:
    """The author deploys again under the same names: no trace of the refusal is left."""
    listing = await scene.session()
    await scene.named(listing, MUCH_EVIDENCE)
    await scene.marked(listing, 3, MUCH_EVIDENCE)
    mended = item("cart", 4)
    await scene.named(listing, mended)
    assert await scene.marked(listing, 4, mended)
    assert await scene.db.items.list() == (mended,)
    assert scene.code() == ""


async def test_v14_an_unusable_item_changes_nothing_of_what_is_held(scene: Scene) -> None:
    """What the cell was meant to be before stays."""
    listing = await scene.session()
    good = item("cart", 1)
    await scene.named(listing, good, MUCH_EVIDENCE)
    assert await scene.marked(listing, 3, MUCH_EVIDENCE)
    assert await scene.db.items.list() == (good,)
    assert scene.ports.items == [good]


async def test_an_unusable_item_the_hub_names_no_more_is_forgotten(scene: Scene) -> None:
    """A mended hub leaves it out: one full listing, and both agree."""
    listing = await scene.session()
    await scene.named(listing, LONG)
    await scene.marked(listing, 3, LONG)
    again = await scene.session()
    await scene.marked(again, 4)
    assert len(scene.reconnects) == 1
    full = await scene.session()
    assert full.revision == 0
    assert await scene.marked(full, 4)
    assert scene.code() == ""
    assert len(scene.reconnects) == 1


async def test_v16_a_flood_of_unusable_items_has_an_end(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a bound they are neither remembered nor recorded one by one, and the sides differ without a loop."""
    scene.subject._bounds = Bounds(unusable=3)
    bad = [replace(LONG, cell=f"{'x' * 30}{number}") for number in range(20)]
    for _ in range(3):
        listing = await scene.session()
        await scene.named(listing, *bad)
        await scene.marked(listing, 20, *bad)
    assert len(await scene.findings()) == 3
    assert len(scene.reconnects) == 1
    assert scene.code() == ITEMS_DIFFER.code


async def test_v16_a_receipt_of_a_refusal_that_finds_no_room_is_sent_later(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The revision does not move, so the item comes again when there may be space."""

    async def full(_: object) -> None:
        raise FULL("no room")

    monkeypatch.setattr(scene.ports, "on_refused", full)
    listing = await scene.session()
    await scene.named(listing, BAD_EVIDENCE)
    assert not await scene.marked(listing, 3, BAD_EVIDENCE)
    assert await scene.revision() is None
    monkeypatch.undo()
    again = await scene.session()
    await scene.named(again, BAD_EVIDENCE)
    assert len(scene.ports.refused) == 1
    assert len(await scene.findings()) == 1


async def test_v16_an_engine_that_fails_for_one_item_does_not_cost_the_link(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it raises, the stream goes on, and somebody hears of it."""

    async def fail(_: DesiredItem) -> None:
        raise KeyError("cart")

    monkeypatch.setattr(scene.ports, "on_item", fail)
    listing, one = await scene.session(), item("cart", 1)
    await scene.named(listing, one)
    assert await scene.marked(listing, 1, one)
    assert scene.code() == "link/item-unusable"
    monkeypatch.undo()
    other = item("cart", 2)
    await scene.named(listing, other)
    assert await scene.marked(listing, 2, other)
    assert scene.code() == ""


async def test_v13_once_a_newer_session_is_welcomed_the_old_one_is_not_listened_to(scene: Scene) -> None:
    """A late item of the old stream must not undo a quarantine, nor its mark say that the newer one is through."""
    old = await scene.session()
    await scene.named(old, item("cart", 1))
    new = await scene.session()
    await scene.named(new, item("cart", 3, "quarantine"))
    await scene.named(old, item("cart", 2))
    assert not await scene.marked(old, 2, item("cart", 2))
    assert [one.hub_state for one in scene.ports.items] == ["run", "quarantine"]
    assert [one.revision for one in await scene.db.items.list()] == [3]
    assert await scene.revision() is None
    assert await scene.marked(new, 3, item("cart", 3, "quarantine"))
    assert await scene.revision() == "3"


async def test_v13_two_streams_at_once_are_taken_in_turn(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item of the old stream that is being written when the new one brings its successor stays the older one."""
    old = await scene.session()
    put, reached, go = scene.db.items.put, asyncio.Event(), asyncio.Event()

    async def slow(one: DesiredItem) -> None:
        if one.revision == 1:
            reached.set()
            await go.wait()
        await put(one)

    monkeypatch.setattr(scene.db.items, "put", slow)
    first = asyncio.create_task(scene.named(old, item("cart", 1)))
    await reached.wait()

    async def successor() -> None:
        await scene.named(await scene.session(), item("cart", 2, "quarantine"))

    second = asyncio.create_task(successor())
    for _ in range(20):
        await asyncio.sleep(0)
    go.set()
    await asyncio.gather(first, second)
    assert [one.revision for one in scene.ports.items] == [1, 2]
    assert [one.hub_state for one in await scene.db.items.list()] == ["quarantine"]


async def test_v13_a_lower_revision_is_ignored_within_one_epoch_of_the_hub(scene: Scene) -> None:
    """A replica of the hub that lags undoes nothing; after a restore, or when all is listed, numbers begin anew."""
    listing = await scene.session()
    await scene.named(listing, item("cart", 5, "quarantine"))
    await scene.marked(listing, 5, item("cart", 5, "quarantine"))
    lagging = await scene.session()
    assert lagging.revision == 5
    await scene.named(lagging, item("cart", 4))
    assert [one.hub_state for one in await scene.db.items.list()] == ["quarantine"]
    await scene.subject.ask_for_all()
    await scene.named(await scene.session(), item("cart", 4))
    assert [one.hub_state for one in await scene.db.items.list()] == ["run"]
    await scene.db.meta.set({desired.REVISION: "5"})
    restored = await scene.session("e2")
    assert restored.revision == 5
    await scene.named(restored, item("cart", 2, "hold"))
    assert [one.hub_state for one in await scene.db.items.list()] == ["hold"]


async def test_a_resync_is_not_lost_by_what_still_comes_on_the_running_stream(scene: Scene) -> None:
    """A mark that was on the way must not say that everything was named anew."""
    listing = await scene.session()
    await scene.named(listing, item("a", 1))
    await scene.marked(listing, 1, item("a", 1))
    running = await scene.session()
    await scene.subject.ask_for_all()
    await scene.named(running, item("b", 2))
    assert not await scene.marked(running, 2, item("a", 1), item("b", 2))
    next_one = await scene.session()
    assert next_one.revision == 0
    assert await scene.marked(next_one, 2, item("a", 1), item("b", 2))
    assert (await scene.session()).revision == 2


async def test_v16_cells_that_another_hub_made_up_leave_no_cell_out_for_good(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V16: a stolen hub names as many as there may be; the honest one after it is asked again once they are gone."""
    scene.subject._bounds = Bounds(items=2)
    scene.ports.accepted = False
    made_up, real = (item("x1", 1), item("x2", 2)), (item("cart", 3), item("web", 4))
    listing = await scene.session("stolen")
    await scene.named(listing, *made_up)
    await scene.marked(listing, 2, *made_up)
    for _ in range(3):
        before = len(scene.reconnects)
        listing = await scene.session("honest")
        await scene.named(listing, *real)
        await scene.marked(listing, 4, *real)
        if len(scene.reconnects) == before:
            break
    assert set(await scene.db.items.list()) == set(real)
    assert len(scene.reconnects) == 2
    assert await scene.revision() == "4"
