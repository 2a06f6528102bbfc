"""What is asked of a hub, and how much of its answer is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellward.errors import CellwardError
from cellward.policy import client
from cellward.policy.floors import PolicyFloors
from tests.fakes.policy import PolicyWorld, denying, now


class Hub:
    """A Fetch over what a world serves that notes the limits, and can answer with more than was asked for."""

    def __init__(self, world: PolicyWorld) -> None:
        self.source = world.source
        self.limits: dict[str, int] = {}
        self.longer = ""

    def metadata(self, role: str, version: int | None, limit: int) -> bytes | None:
        """Return metadata, with white space to one byte above the limit where ``longer`` says so."""
        self.limits[role] = max(limit, self.limits.get(role, 0))
        if version is None:
            version = max(number for name, number in self.source.metadata if name == role)
        data = self.source.metadata.get((role, version))
        return data if data is None or role != self.longer else data + b" " * (limit + 1 - len(data))

    def target(self, digest: str, limit: int) -> bytes | None:
        """Return a target."""
        data = self.source.targets[digest]
        assert limit == len(data), "the signed length is the limit"
        return data + b" " if self.longer == "target" else data


def update(hub: Hub, world: PolicyWorld, place: Path) -> client.Candidate:
    """Fetch all of a set."""
    return client.update(
        place,
        bootstrap=world.root,
        realm=world.realm,
        fetch=hub,
        wanted=client.select_all,
        floors=PolicyFloors(),
        now=now(),
    )


def test_no_fetch_asks_for_more_than_a_role_may_have(tmp_path: Path) -> None:
    """A hub that never stops sending must be cut off by the source, so each fetch says how much may come."""
    world = PolicyWorld()
    world.publish(denying("Bad"))
    hub = Hub(world)
    assert update(hub, world, tmp_path).verified.bundles
    assert set(hub.limits) == {"root", "timestamp", "snapshot", "targets", "keyring"}
    for role, limit in hub.limits.items():
        assert 0 < limit <= {"root": 512_000, "timestamp": 16_384, "targets": 2_000_000}.get(role, 262_144), role


@pytest.mark.parametrize("longer", ["timestamp", "snapshot", "targets", "keyring", "target"])
def test_what_is_longer_than_asked_for_is_refused(tmp_path: Path, longer: str) -> None:
    """V16: also when the source does not cut it off."""
    world = PolicyWorld()
    world.publish(denying("Bad"))
    hub = Hub(world)
    hub.longer = longer
    with pytest.raises(CellwardError) as caught:
        update(hub, world, tmp_path)
    assert caught.value.code == "policy/unverified"
