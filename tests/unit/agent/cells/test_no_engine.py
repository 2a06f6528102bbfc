"""A cell that waits for an engine says so, and not that there is no policy (V15)."""

from __future__ import annotations

from cellward.policy.errors import ENGINE_NOT_STARTABLE
from tests.fakes.cell_world import World, cell_yaml


async def test_v15_a_cell_waits_for_an_engine_that_cannot_be_started(world: World) -> None:
    """Without a receipt, since nobody has to sign anything; when there is a set that decides, it goes on."""
    verified, world.policy.current = world.policy.current, None
    world.policy.missing = ENGINE_NOT_STARTABLE("/opt/opa cannot be started: No such file or directory")
    digest = world.deployment("one", world.release(cell_yaml("one")))
    await world.engine.submit(world.item("one", digest))
    await world.until(lambda: world.report("one").refusals)
    (refusal,) = world.report("one").refusals
    assert refusal.code == "policy/engine-not-startable"
    assert "/opt/opa cannot be started" in refusal.reason
    assert "opa_binary" in refusal.next
    assert world.receipts == []
    world.policy.current = verified
    world.engine.reconsider()
    await world.until(lambda: [one.accepted for one in world.receipts] == [True])
