"""An author of project A, and a hub that carries it, fill the agent's room with ends of cells that never were (V16)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from agent.link.desired import DesiredItems, Listing
from agent.link.interfaces import LinkPorts, ReceiptFacts
from agent.link.listed import Bounds
from cellward.documents.dsse import Ed25519Signer
from cellward.documents.keyring import Keyring, KeyringEntry
from cellward.documents.model import Tombstone
from cellward.documents.names import CellKey
from cellward.wire.codec import DesiredItem, item_to_wire, items_digest
from cellward.wire.v1 import link_pb2
from tests.fakes.cell_world import KINDS, REALM, World, cell_yaml
from tests.fakes.linked_agent import FakePorts

ROOM = 6
FRESH = CellKey("shop", "fresh", "dev")


class Ports(FakePorts):
    """The engine behind the link."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    async def on_item(self, item: DesiredItem) -> None:
        """Hand it on."""
        await self.world.engine.submit(item)

    async def on_refused(self, receipt: ReceiptFacts) -> None:
        """Note it."""
        self.world.receipts.append(receipt)

    async def on_withdrawn(self, item: DesiredItem) -> bool:
        """As Reception does."""
        return await self.world.engine.withdraw(item)

    async def on_full(self) -> Sequence[CellKey]:
        """As Reception does."""
        return await self.world.engine.make_room()


@pytest.fixture
async def subject(world: World) -> AsyncIterator[DesiredItems]:
    """The link's side of a running engine, with little room, in a realm that has another project as well."""
    ports: LinkPorts = Ports(world)
    made = DesiredItems(world.state, ports, world.recorder, world.health, world.timer, lambda: None, Bounds(items=ROOM))
    yield made
    await made.close()


async def fill(world: World, subject: DesiredItems) -> list[DesiredItem]:
    """Have as many ends accepted as there is room for."""
    now, mallory = datetime.now(UTC), Ed25519Signer.generate()
    day = timedelta(days=1)
    entry = KeyringEntry(
        mallory.keyid, "ed25519", mallory.public_spki_der, "mallory", KINDS, ("alpha",), ("*",), now - day, now + day
    )
    current = world.policy.current
    assert current is not None
    keyring = Keyring(REALM, 1, (*current.keyring.entries, entry))
    world.policy.current = replace(current, keyring=keyring)
    world.facts = replace(world.facts, projects=("shop", "alpha"))
    listing = await session(subject, "stolen")
    ends = []
    for number in range(1, ROOM + 1):
        end = Tombstone(
            realm=REALM, project="alpha", cell=f"never{number}", environments=("dev",), sequence=number,
            delete_data=True, issued_at=now.replace(microsecond=0), not_after=now.replace(microsecond=0) + day,
        )  # fmt: skip
        ends.append(DesiredItem(number, "alpha", f"never{number}", "dev", world.sign(end, mallory), (), "run"))
        await subject.take(listing, item_to_wire(ends[-1]))
    await world.until(lambda: len(world.receipts) == ROOM)
    assert all(one.accepted for one in world.receipts)
    return ends


async def session(subject: DesiredItems, epoch: str) -> Listing:
    """A session that was welcomed."""
    listing = Listing()
    await subject.position(listing)
    await subject.welcomed(listing, epoch)
    return listing


def fresh(world: World) -> DesiredItem:
    """A cell of project B."""
    return DesiredItem(100, *FRESH, world.deployment("fresh", world.release(cell_yaml("fresh"))), (), "run")


async def test_v16_ends_of_cells_that_never_were_keep_no_cell_out(world: World, subject: DesiredItems) -> None:
    """Whoever names them still: they give their places to others, and what they said stays in their floors."""
    ends = await fill(world, subject)
    listing = await session(subject, "stolen")
    mine = fresh(world)
    await subject.take(listing, item_to_wire(mine))
    await world.until(lambda: any(one.deployment_digest == mine.deployment_digest for one in world.receipts))
    assert FRESH in world.engine.statuses()
    assert await world.state.items.list() == (mine,)
    floors = await world.state.floors.all()
    assert {one.key for one in ends} <= set(floors)
    assert await world.state.inventory.namespaces() == ("shop--fresh--dev",)


async def test_v14_v16_what_a_hub_no_longer_names_of_ended_cells_is_forgotten(
    world: World, subject: DesiredItems
) -> None:
    """An honest hub lists what there is, and both sides agree; a cell that ended takes no room, nor a worker."""
    await fill(world, subject)
    await subject.ask_for_all()
    for _ in range(2):
        listing = await session(subject, "honest")
        await subject.reached(listing, link_pb2.RevisionMark(revision=9, items_digest=items_digest([])))
    assert await world.state.items.list() == ()
    assert world.engine.statuses() == {}
    await world._stop()
    await world._start()
    assert world.engine.statuses() == {}


async def test_v14_a_cell_that_has_anything_left_is_not_forgotten(world: World, subject: DesiredItems) -> None:
    """Not while it runs, and not while its data is kept."""
    del subject
    assert (await world.deploy(cell_yaml("kept"), "kept")).accepted
    assert await world.engine.make_room() == ()
    end = world.item("kept", world.tombstone("kept"))
    assert (await world.submit(end)).accepted
    await world.phase("kept", "removed")
    assert await world.engine.make_room() == ()
    assert not await world.engine.withdraw(end)
