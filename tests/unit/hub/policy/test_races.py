"""Of two publications made from the same the one that comes later is told that it was overtaken (V15)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from cellward.documents.keyring import Keyring
from cellward.errors import CellwardError
from cellward.policy.publisher import Publication, publish_keyring, refresh
from hub.policy.service import TufRepository
from hub.store.sql.store import SqlStore, open_store
from tests.fakes.clock import ManualClock
from tests.fakes.policy import PolicyWorld, denying, moment, now

Make = Callable[[PolicyWorld, timedelta], Publication]


def policy(world: PolicyWorld, later: timedelta) -> Publication:
    """Make other targets."""
    return world.make([denying("Worse", version=f"1.0.{int(later.total_seconds())}")], at=moment() + later)


def keyring(world: PolicyWorld, later: timedelta) -> Publication:
    """Make another keyring."""
    changed = Keyring(world.realm, world.keyring.version + 1, ())
    return publish_keyring(
        world.record, keys=world.keys, now=moment() + later, seen=world.floors, keyring=changed
    )  # fmt: skip


def snapshot(world: PolicyWorld, later: timedelta) -> Publication:
    """Make another snapshot over the same."""
    return refresh(world.record, keys=world.keys, now=moment() + later, seen=world.floors)


@pytest.fixture
def world() -> PolicyWorld:
    """Return an authority."""
    return PolicyWorld()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    """Return an empty store."""
    opened = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}")
    yield opened
    await opened.close()


@pytest.fixture
def repository(world: PolicyWorld, store: SqlStore) -> TufRepository:
    """Return a repository over both."""
    return TufRepository(store.tuf, world.hub_key, ManualClock(now()), realm=lambda: world.realm)


async def refused(repository: TufRepository, upload: Publication) -> CellwardError:
    """Return what an upload is refused with; what is served stays as it is."""
    before = await repository.status()
    with pytest.raises(CellwardError) as caught:
        await repository.publish(upload)
    assert await repository.status() == before
    return caught.value


@pytest.mark.parametrize(
    ("winner", "loser"),
    [(policy, policy), (policy, keyring), (keyring, policy), (policy, snapshot), (keyring, keyring)],
)
@pytest.mark.parametrize("signed", ["before", "after"])
async def test_v15_the_loser_is_told_which_publication_came_first(
    world: PolicyWorld, repository: TufRepository, winner: Make, loser: Make, signed: str
) -> None:
    """Whichever of the two was signed first: it is their arrival that decides."""
    await repository.publish(world.publish(denying("Bad")))
    late = loser(world, timedelta(seconds=1 if signed == "before" else 3))
    first = await repository.publish(winner(world, timedelta(seconds=2)))
    error = await refused(repository, late)
    assert error.code == "policy/overtaken"
    assert f"snapshot version {first.snapshot_version} is served" in error.message
    assert "publish again" in error.hint


async def test_v15_the_older_of_two_refreshes_is_told_too(world: PolicyWorld, repository: TufRepository) -> None:
    """The newer one is taken, whatever came before: it changes nothing else."""
    await repository.publish(world.publish(denying("Bad")))
    older, newest = snapshot(world, timedelta(seconds=1)), snapshot(world, timedelta(seconds=3))
    await repository.publish(snapshot(world, timedelta(seconds=2)))
    assert (await refused(repository, older)).code == "policy/overtaken"
    await repository.publish(newest)


async def test_what_was_served_before_lost_no_race(world: PolicyWorld, repository: TufRepository) -> None:
    """It came first itself: whoever uploads it again takes policy back."""
    first = world.publish(denying("Bad"))
    await repository.publish(first)
    second = world.publish(denying("Worse", version="1.0.1"))
    await repository.publish(second)
    assert (await refused(repository, first)).code == "policy/rollback"
    await repository.publish(world.refresh(at=moment() + timedelta(seconds=1)))
    assert (await refused(repository, second)).code == "policy/rollback"


async def test_what_was_made_from_nothing_that_is_served_lost_no_race(
    world: PolicyWorld, repository: TufRepository
) -> None:
    """Two publications later it is an old base, and may bring back what was taken away."""
    await repository.publish(world.publish(denying("Bad")))
    late = policy(world, timedelta(seconds=5))
    for number in (1, 2):
        await repository.publish(world.publish(denying("Worse", version=f"1.0.{number}")))
    assert (await refused(repository, late)).code == "policy/old-base"


async def test_a_timestamp_signed_meanwhile_is_no_race(
    world: PolicyWorld, store: SqlStore, repository: TufRepository
) -> None:
    """Another process renews its timestamp while a publication is verified: it is decided again, and taken."""
    await repository.publish(world.publish(denying("Bad")))
    other = TufRepository(store.tuf, world.hub_key, ManualClock(now() + timedelta(seconds=1)))
    renewed: list[int | None] = []

    async def commit(job):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - generic as the protocol
        if not renewed:
            renewed.append(await other.renew_timestamp())
        return await store.transact(job)

    result = await repository.publish(world.publish(denying("Worse", version="1.0.1")), commit=commit)
    assert renewed[0]
    assert result.timestamp_version > renewed[0]
