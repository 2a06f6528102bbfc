"""Whatever a hub hands to an agent, in force is only what authors signed for this cluster, and never less than before.

The hub holds its CA, timestamp and tree-head keys and everything that anybody ever signed. It composes policy of parts
of several sets, under timestamps that it signs anew; names any document for any cell, with any evidence, state and
revision; serves it short, changed, unsigned, in place of another, or not at all; begins sessions, says that everything
was named, and lets the agent start anew from its disk. The agent's acceptance is real from the frame on: items, engine,
documents, policy store, floors, SQLite. After each move, once nothing is left to do:

- the policy set in force is one that authors put under one snapshot, not before the one in force until now, with its
  keyring and its revocations;
- the Deployment or tombstone in force of a cell is one that authors signed for this cell, environment and cluster; one
  that is new was signed by as many owners as are needed, with keys that the keyring in force trusts, while no signed
  lock held the cluster; the release is the one it names, and runs;
- no sequence, time of issue or floor is lower, and none is beyond the clock; no cell is gone that no tombstone ended;
- a signed quarantine is in force, whatever the hub says;
- a restart takes nothing out of force, though it may try at once what waited; after the disk was lost the copy of the
  floors still bounds all of it; and nobody met an error that nobody expected.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import structlog
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from agent.cells.engine import CellEngine
from agent.cells.errors import WORKER_ENDED
from agent.cells.revoked import Revoked
from agent.kube.interfaces import ObjectRef
from agent.objects.model import CellRecord
from agent.policy.store import PolicyStore
from agent.spool import floors as floors_module
from agent.verify.errors import UNEXPECTED
from agent.verify.intake import Intake
from cellward.policy.trust import floor_in
from tests.hostile.lying_hub.agent import Ground, Key, Told
from tests.hostile.lying_hub.moves import ITEMS, MOVES, WHOLE, Again, Item, Items, Listed, Move, Policy

#: Examples of one run: few in `make test`, ten thousand in `make soak`.
EXAMPLES = int(os.environ.get("CELLWARD_SOAK_EXAMPLES", "60"))
_AHEAD = 600_000
#: What is logged where something happened that nobody expected.
_MISTAKES = {"turn-failed", "turn-cancelled", "cell-worker-ended", "desired-item-failed"}
_ONE = ("shop", "one", "dev")


@pytest.fixture(scope="module")
def ground() -> Ground:
    """The past and a cluster, for every example."""
    return asyncio.run(Ground.make())


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """Where agents keep their state; in memory where there is such a place, as nobody cuts the power here."""
    shared = Path("/dev/shm")  # noqa: S108 - a directory of our own below it
    place = Path(tempfile.mkdtemp(dir=shared if os.access(shared, os.W_OK) else None))
    yield place
    shutil.rmtree(place)


@dataclass
class Watch:
    """What was in force at the last look."""

    told: Told
    index: int = -1
    #: The newest set that was ever in force, and whether the disk was ever lost since.
    highest: int = -1
    was_lost: bool = False
    sequences: dict[Key, tuple[int, Any]] = field(default_factory=dict)
    records: Mapping[Key, CellRecord] = field(default_factory=dict)

    async def look(self, move: Move | None) -> None:
        """Assert all that has to hold after a move."""
        lost = isinstance(move, Again) and move.how == "lost"
        before, self.index = self.index, self._policy()
        self.records = {} if lost else self.records
        self.was_lost = self.was_lost or lost
        assert self.index >= self.highest or (self.index == -1 and self.was_lost), move
        self.highest = max(self.index, self.highest)
        assert self.index >= before or lost, move
        records = dict(self.told.records())
        for key, record in records.items():
            self._cell(key, record, self.records.get(key))
        for key, record in self.records.items():
            # What has ended by its tombstone and is listed no more is forgotten; its floor stays.
            ended = record.ending and not record.objects
            assert key in records or ended or not (record.deployment_digest or record.objects), (move, key)
        await self._floors()
        if isinstance(move, Again) and move.how == "restart":
            assert self.index == before
            for key, one in self.records.items():
                assert not one.deployment_digest or records[key].deployment_digest, key
        self.records = records

    def _policy(self) -> int:
        """Which of the published sets is in force, -1 for none."""
        past, verified, floors = self.told.past, self.told.verified, self.told.store.floors.roles
        if verified is None:
            return -1
        (index,) = [at for at, one in enumerate(past.sets) if one["snapshot"][0] == verified.snapshot_version]
        for role in ("targets", "keyring", "snapshot"):
            assert floors[role] == floor_in(role, past.sets[index][role][1]), role
        keyring, revocations, thresholds = past.contents[index]
        assert dict(verified.binding_set.thresholds) == dict(thresholds)
        assert (verified.keyring, verified.revocations) == (revocations.narrow(keyring), revocations)
        return index

    def _cell(self, key: Key, record: CellRecord, before: CellRecord | None) -> None:
        past = self.told.past
        if not record.deployment_digest:
            assert not record.objects or self.was_lost, key
            assert before is None or not before.deployment_digest, key
            return
        placed = past.placed[record.deployment_digest]
        assert placed.key == key
        keyring, revocations, thresholds = past.contents[self.index]
        if before is None or before.deployment_digest != record.deployment_digest:
            entries = [entry for entry in keyring.entries if entry.keyid in placed.keyids and entry.state == "active"]
            needed = thresholds.get("deployment" if placed.release else "tombstone", 1)
            assert len({entry.owner for entry in entries}) >= needed, key
            assert not revocations.locks, key
        if record.settled:
            assert record.release_digest == placed.release, key
            self._runs(record)
        if revocations.quarantine(*key) is not None and record.objects and not record.ending:
            assert record.quarantined, key

    def _runs(self, record: CellRecord) -> None:
        """What is in the cluster is what was released."""
        ref = ObjectRef("apps/v1", "Deployment", record.namespace, "web")
        found = self.told.kube._objects.get(ref)  # type: ignore[attr-defined]
        if record.ending:
            assert found is None
            return
        (container,) = found["spec"]["template"]["spec"]["containers"]
        assert f"1.{container['image'].rpartition(':')[2]}.0" == record.version

    async def _floors(self) -> None:
        floors = {tuple(key): floor for key, floor in (await self.told.state.floors.all()).items()}
        for key, (sequence, issued_at) in self.sequences.items():
            assert floors[key].sequence >= sequence
            assert floors[key].issued_at >= issued_at
        for key, record in self.told.records().items():
            assert not record.deployment_digest or floors[key].digest == record.deployment_digest
        for key, floor in floors.items():
            placed = self.told.past.placed[floor.digest]
            assert (placed.key, placed.sequence, placed.issued_at) == (key, floor.sequence, floor.issued_at)
            assert floor.sequence <= time.time() * 1000 + _AHEAD
        self.sequences = {key: (floor.sequence, floor.issued_at) for key, floor in floors.items()}  # type: ignore[misc]


async def told_so(ground: Ground, directory: Path, begun: tuple[int, int], moves: list[Move]) -> None:
    """Begin with an honest hub: as many sets and Deployments as ``begun`` says; then make the moves."""
    sets, deployed = begun
    async with ground.agent(directory) as told:
        watch = Watch(told)
        honest: list[Move] = [Policy((number, number, number), 9, None) for number in range(sets)]
        documents = ground.past.digests.index
        honest += [Items((Item(0, documents(one)),)) for one in ground.past.honest["one"][:deployed]]
        honest += [Items((Item(1, documents(one)),)) for one in ground.past.honest["two"][:deployed]]
        for move in (*honest, *moves):
            await move.play(told)
            await told.quiet()
            await watch.look(move)
        assert not [one for one in told.health.get() if one.code == WORKER_ENDED.code]
        codes = {refusal.code for one in (*told.receipts, *told.reports) for refusal in one.refusals}
        assert UNEXPECTED.code not in codes


def check(ground: Ground, disk: Path, begun: tuple[int, int], moves: list[Move]) -> None:
    """Run one example on a directory of its own."""
    directory = Path(tempfile.mkdtemp(dir=disk))
    try:
        with structlog.testing.capture_logs() as logs, mock.patch.object(os, "fsync", return_value=None):
            asyncio.run(told_so(ground, directory, begun, moves))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    assert not [one for one in logs if one["event"] in _MISTAKES]


#: How many sets and how many Deployments of each cell an honest hub had delivered before.
BEGUN = st.tuples(st.integers(0, 8), st.integers(0, 3))


@pytest.mark.timeout(7200)
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(begun=BEGUN, moves=st.lists(MOVES, min_size=1, max_size=6))
# A cell that ends by its tombstone before it ever ran, and is listed no more.
@example(begun=(1, 0), moves=[Items((Item(0, 0), Item(1, 40))), Listed(Items((Item(0, 0),)))])
def test_v1_v2_v8_in_force_is_what_authors_signed_and_never_less(
    ground: Ground, disk: Path, begun: tuple[int, int], moves: list[Move]
) -> None:
    """V1, V2, V8, V14, V16: as the docstring of this module says."""
    check(ground, disk, begun, moves)


def no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signed lock of the cluster keeps nothing out."""
    monkeypatch.setattr(Revoked, "check_lock", lambda _: None)


def no_quarantine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signed quarantine is left to the hub."""
    monkeypatch.setattr(Revoked, "why_quarantined", lambda *_: "")


def no_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Deployment counts for whatever cell the hub names it for."""

    async def nothing(*_: object) -> None:
        return

    monkeypatch.setattr(Intake, "_check", nothing)


def withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a hub no longer names is forgotten."""
    honest = CellEngine.withdraw

    def withdraw(self: CellEngine, item: Any) -> bool:
        worker = self._roster.workers.get(item.key)
        if worker is not None:
            worker.cell.record = CellRecord(*item.key, namespace=worker.cell.record.namespace)
        return honest(self, item)

    monkeypatch.setattr(CellEngine, "withdraw", withdraw)


def older_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy set is judged as on a cluster that never had any."""

    def fetch(self: PolicyStore, *given: Any) -> Any:
        return honest(PolicyStore(self._directory / "new", root=self._root, realm=self._realm), *given)

    honest = PolicyStore.fetch
    monkeypatch.setattr(PolicyStore, "fetch", fetch)


def no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Floors of the copy outside of the state are not read where the state was lost."""
    monkeypatch.setattr(floors_module, "reconcile", lambda *_: floors_module.Reconciled({}, (), ()))


_PLAIN = st.builds(lambda key, document: Items((Item(key, document),)), st.integers(0, 1), st.integers(0, 40))
#: Each with the moves that are tried, aimed where all of them would take long.
MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], st.SearchStrategy[Any]] = {
    no_lock: ITEMS,
    no_quarantine: MOVES,
    no_subject: _PLAIN,
    older_policy: WHOLE,
    no_copy: st.one_of(_PLAIN, st.just(Again("lost"))),
    withdrawn: st.builds(Listed, ITEMS),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.__name__)
def test_v1_the_property_finds_it(
    ground: Ground, disk: Path, monkeypatch: pytest.MonkeyPatch, mutant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """V1: a mistake made on purpose breaks the property within some examples."""
    mutant(monkeypatch)

    @settings(
        max_examples=200, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )  # fmt: skip
    @given(begun=BEGUN, moves=st.lists(MUTANTS[mutant], min_size=1, max_size=6))
    def told(begun: tuple[int, int], moves: list[Move]) -> None:
        check(ground, disk, begun, moves)

    with pytest.raises((AssertionError, KeyError)):
        told()
