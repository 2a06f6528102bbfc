"""Clusters: their names, their streams, and what their agents may say."""

from __future__ import annotations

import pytest

from cellward.errors import CellwardError
from cellward.wire.v1 import link_pb2
from tests.fakes.refusals import refused
from tests.fakes.rooms import World


async def _refused(world: World, *envelopes: bytes) -> str:
    with pytest.raises(CellwardError) as caught:
        await world.documents.accept(list(envelopes))
    return caught.value.code


async def test_reports_about_nothing_leave_nothing(world: World) -> None:
    """An agent cannot fill the store with cells it was never meant to have."""
    await world.join("eu-1")
    status = link_pb2.CellStatus(project="x", cell="y", environment="z", phase=link_pb2.CELL_PHASE_READY)
    receipt = link_pb2.Receipt(project="x", cell="y", environment="z", deployment_digest="sha256:" + "1" * 64)
    await world.clusters.cell_status("eu-1", status)
    await world.clusters.receipt("eu-1", receipt)
    assert await world.clusters.cells() == ()


async def test_hello_with_facts_no_document_could_name_is_refused(world: World) -> None:
    """V16: malformed facts are refused with a code and change nothing that was known."""
    await world.join("eu-1", "dev")
    with refused("document/malformed"):
        await world.join("eu-1", "Not A Name")
    facts = (await world.clusters.cluster("eu-1")).facts
    assert facts is not None
    assert facts.environments == ("dev",)


async def test_presence_follows_the_newest_stream(world: World) -> None:
    """The end of an old stream does not make a reconnected agent look gone."""
    await world.join("eu-1")
    await world.clusters.connected("eu-1", "old")
    await world.clusters.connected("eu-1", "new")
    await world.clusters.disconnected("eu-1", "old")
    assert (await world.clusters.cluster("eu-1")).connected
    await world.clusters.disconnected("eu-1", "new")
    assert not (await world.clusters.cluster("eu-1")).connected


async def test_cluster_names_are_checked_and_never_taken_twice(world: World) -> None:
    """V3: one name, one cluster."""
    await world.clusters.create_cluster("eu-1", "ada")
    bad = "fleet/bad-cluster-name"
    for name, code in (("eu-1", "fleet/cluster-exists"), ("Eu", bad), ("a" * 41, bad)):
        with pytest.raises(CellwardError) as caught:
            await world.clusters.create_cluster(name, "ada")
        assert caught.value.code == code
