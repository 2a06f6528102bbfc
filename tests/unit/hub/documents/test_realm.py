"""The first root names the realm, and stays."""

from __future__ import annotations

import pytest

from cellward.errors import CellwardError
from hub.documents.realm import RealmService
from tests.fakes.refusals import refused
from tests.fakes.rooms import World
from tests.fakes.signed import new_root
from tests.fakes.store import scratch_store


async def test_first_root_stays(world: World) -> None:
    """One root, one hub: the same root again is fine, another one is refused; who waits for it hears it once."""
    heard: list[str] = []

    async def hear(realm: object) -> None:
        heard.append(str(realm))

    store = scratch_store()
    service = RealmService(store.meta)
    service.on_adopted.append(hear)
    root, _ = new_root()
    realm = await service.adopt(root)
    assert await service.adopt(root) == realm
    assert len(heard) == 1
    with pytest.raises(CellwardError) as caught:
        await service.adopt(new_root()[0])
    assert caught.value.code == "fleet/realm-adopted"
    with refused("policy/unverified"):
        await service.adopt(b"{}")
    assert await RealmService(store.meta).current() == realm
