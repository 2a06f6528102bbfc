"""The publisher signs nothing again that a hub has put together from older parts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cellward.errors import CellwardError
from cellward.policy.published import RepositoryState
from cellward.policy.publisher import Publication, publish_keyring, refresh
from cellward.policy.trust import PolicyFloors
from tests.fakes.policy import PolicyWorld, denying, keys_of, now

ROLES = ("targets", "keyring", "snapshot")


@pytest.fixture
def world() -> PolicyWorld:
    """An authority that has published twice; ``world.source`` has all versions."""
    made = PolicyWorld()
    made.publish(denying("Old"))
    made.publish(denying("New", version="1.0.1"))
    return made


def older(world: PolicyWorld, *roles: str) -> RepositoryState:
    """The present state with the named roles as they were first published."""
    return replace(world.state, **{role: world.source.metadata[role, 1] for role in roles})


def versions(publication: Publication) -> dict[str, int]:
    """Versions in a publication, without the root."""
    return {file.role: file.version for file in publication.metadata if file.role != "root"}


def renew(
    state: RepositoryState, world: PolicyWorld, how: str, known: PolicyFloors | None, **more: bool
) -> Publication:
    """Sign with what is shown."""
    if how == "refresh":
        return refresh(state, keys=world.keys, now=now(), known=known, **more)
    return publish_keyring(state, keyring=world.keyring, keys=world.keys, now=now(), known=known, **more)


@pytest.mark.parametrize("how", ["refresh", "publish_keyring"])
@pytest.mark.parametrize("mixed", [("targets",), ("keyring",), ("targets", "keyring"), ("snapshot",)])
def test_older_parts_under_the_newest_snapshot_are_not_signed_again(
    world: PolicyWorld, how: str, mixed: tuple[str, ...]
) -> None:
    """A stolen hub would get old targets, or a keyring from before a revocation, under a snapshot newer than all."""
    only = PolicyFloors({"snapshot": world.floors.roles["snapshot"]} if "snapshot" not in mixed else {})
    with pytest.raises(CellwardError) as caught:
        renew(older(world, *mixed), world, how, only)
    assert caught.value.code == "policy/rollback"
    assert "its snapshot names" in caught.value.message


@pytest.mark.parametrize("how", ["refresh", "publish_keyring"])
def test_older_set_is_not_signed_again(world: PolicyWorld, how: str) -> None:
    """One consistent set, but not the last one; each floor alone refuses it."""
    for role in ROLES:
        with pytest.raises(CellwardError) as caught:
            renew(older(world, *ROLES), world, how, PolicyFloors({role: world.floors.roles[role]}))
        assert (caught.value.code, caught.value.details.get("role")) == ("policy/rollback", role)


@pytest.mark.parametrize("how", ["refresh", "publish_keyring"])
def test_without_floors_nothing_is_signed_again_unless_told(world: PolicyWorld, how: str) -> None:
    """A missing floors.json must not silently mean that whatever the hub shows is the newest."""
    with pytest.raises(CellwardError) as caught:
        renew(world.state, world, how, None)
    assert caught.value.code == "policy/no-floors"
    assert versions(renew(world.state, world, how, None, first_use=True))["snapshot"] == 3
    with pytest.raises(CellwardError) as caught:
        renew(older(world, "targets"), world, how, None, first_use=True)
    assert caught.value.code == "policy/rollback"


def test_floors_left_out_of_the_state_do_not_pass(world: PolicyWorld) -> None:
    """A hub that leaves the snapshot away evades no comparison."""
    for role in ROLES:
        with pytest.raises(CellwardError):
            renew(replace(world.state, **{role: None}), world, "refresh", PolicyFloors(), first_use=True)


def test_publish_goes_on_above_what_was_published_before(world: PolicyWorld) -> None:
    """A hub restored from a backup shows an older set, or none: the next publication is above both."""
    for shown in (older(world, *ROLES), replace(world.state, targets=None, keyring=None, snapshot=None), world.state):
        world.state = shown
        assert versions(world.make([denying("Newer", version="1.0.2")])) == {"targets": 3, "keyring": 3, "snapshot": 3}


def test_publish_refuses_an_older_root(world: PolicyWorld) -> None:
    """A root cannot be published again by those who have no copy of it, and its keys may be the ones replaced."""
    before = world.state
    world.rotate(targets=keys_of(world.policy_key))
    world.take(world.make([denying("New", version="1.0.2")]))
    world.state = before
    with pytest.raises(CellwardError) as caught:
        world.make([denying("New", version="1.0.3")])
    assert caught.value.code == "policy/rollback"
