"""An agent's acceptance with everything real but the cluster and the engine of policy, and what authors signed for it.

``Past`` is all that was ever signed, by authors of this realm and by strangers: a row of policy sets and documents of
two cells. ``Told`` is one agent on a state directory: its policy store, its items, its engine, its SQLite state. The
hub between them is the test, which hands over whatever it likes of the past.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from agent.cells.worker import CellWorker
from agent.link.desired import DesiredItems, Listing
from agent.link.interfaces import ReceiptFacts
from agent.objects.fence import load_guards
from agent.objects.model import CellRecord, record_from_json
from agent.policy.store import PolicyStore
from agent.spool.state import AnchorKeeper
from cellward.documents.dsse import Ed25519Signer, dump_envelope, sign_document
from cellward.documents.facts import Selector
from cellward.documents.keyring import Keyring, KeyringEntry
from cellward.documents.model import Approval, Deployment, Document, Release, Tombstone, build_document
from cellward.documents.names import CellKey
from cellward.documents.revocations import Revocations, SignedLock, SignedQuarantine
from cellward.errors import CellwardError
from cellward.policy.client import select_all
from cellward.policy.floors import PolicyFloors
from cellward.policy.model import VerifiedSet
from cellward.wire.codec import DesiredItem
from tests.fakes import cell_world
from tests.fakes.cell_world import KINDS, Policy, World, cell_yaml, digest, fenced, service_yaml
from tests.fakes.evaluator import FakeEvaluator
from tests.fakes.kube import FakeKube
from tests.fakes.policy import MemorySource, PolicyWorld, denying, now
from tools.stack.chart import CHART_FILES

CELLS = ("one", "two")
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Placed:
    """What authors signed for this cluster: a Deployment, or a tombstone with no release."""

    key: Key
    release: str
    sequence: int
    issued_at: datetime
    keyids: tuple[str, ...]


@dataclass(repr=False)
class Past:
    """Everything there ever was; ``placed`` is what may be in force here, by digest, ``sets`` what was published."""

    policy: PolicyWorld
    sets: list[dict[str, tuple[int, bytes]]] = field(default_factory=list)
    #: Keyring, revocations and thresholds of each set.
    contents: list[tuple[Keyring, Revocations, Mapping[str, int]]] = field(default_factory=list)
    foreign: MemorySource = field(default_factory=MemorySource)
    envelopes: dict[str, bytes] = field(default_factory=dict)
    placed: dict[str, Placed] = field(default_factory=dict)
    #: Digests by what they are about, in the order they were signed; what an honest hub would name.
    honest: dict[str, list[str]] = field(default_factory=dict)

    @property
    def realm(self) -> str:
        """Its realm."""
        return self.policy.realm

    @property
    def digests(self) -> list[str]:
        """Every document there is."""
        return list(self.envelopes)


class _Signing:
    """Signs documents into a past."""

    def __init__(self, past: Past) -> None:
        self.past = past
        self.ada, self.bob, self.carol, self.stranger = (Ed25519Signer.generate() for _ in range(4))
        #: A second key of the same owner.
        self.spare = Ed25519Signer.generate()
        self.began = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)

    def entry(self, signer: Ed25519Signer, owner: str, **changes: Any) -> KeyringEntry:
        """A keyring entry for project shop."""
        made = KeyringEntry(
            signer.keyid, "ed25519", signer.public_spki_der, owner, KINDS, ("shop",), ("*",),
            self.began - timedelta(days=1), self.began + timedelta(days=1),
        )  # fmt: skip
        return replace(made, **changes)

    def sign(self, document: Document, *signers: Ed25519Signer) -> str:
        """Sign; returns the digest."""
        kind, payload = build_document(document)
        envelope = dump_envelope(sign_document(payload, kind, signers))
        self.past.envelopes[digest(envelope)] = envelope
        return digest(envelope)

    def release(self, cell: str, number: int, signer: Ed25519Signer) -> str:
        """Sign a version of a cell; its image says which it is."""
        text = service_yaml(image=f"registry.example/{cell}:{number}")
        (manifest,) = cell_world.load_cells(cell_yaml(cell, f"1.{number}.0", text), "past")
        spec = cell_world.resolve_cells([manifest], {})[manifest.cell.key]
        made: Release = cell_world.build_release(
            manifest.cell, spec, realm=self.past.realm, issued_at=self.at(number), replace=False
        )
        return self.sign(made, signer)

    def at(self, number: int) -> datetime:
        """When the document of a number was issued."""
        return self.began + timedelta(minutes=number)

    def deployment(self, cell: str, release: str, number: int, *signers: Ed25519Signer, **changes: Any) -> str:
        """Sign a placement."""
        fields: dict[str, Any] = {
            "realm": self.past.realm, "project": "shop", "cell": cell, "environments": ("dev",),
            "release_digest": release, "sequence": int(self.at(number).timestamp() * 1000),
            "issued_at": self.at(number), "not_after": self.began + timedelta(days=1),
            "cluster_selector": Selector(all=True), **changes,
        }  # fmt: skip
        return self.sign(Deployment(**fields), *signers)

    def keep(self, cell: str, made: str, release: str, number: int, *signers: Ed25519Signer) -> None:
        """Note that authors signed it for this cluster."""
        at = self.at(number)
        keyids = tuple(signer.keyid for signer in signers)
        self.past.placed[made] = Placed(("shop", cell, "dev"), release, int(at.timestamp() * 1000), at, keyids)
        self.past.honest.setdefault(cell, []).append(made)

    def documents(self) -> None:
        """Two cells with a past, and what must never be in force here."""
        for cell in CELLS:
            others = {3: (self.bob,), 5: (self.ada, self.spare), 6: (self.ada, self.carol)}
            for number in range(1, 7):
                signers = others.get(number, (self.ada,))
                release = self.release(cell, number, signers[0])
                self.keep(cell, self.deployment(cell, release, number, *signers), release, number, *signers)
            self._strange(cell, release)
        stone = Tombstone(
            realm=self.past.realm, project="shop", cell="two", environments=("dev",), delete_data=True,
            sequence=int(self.at(9).timestamp() * 1000), issued_at=self.at(9), not_after=self.began + timedelta(days=1),
        )  # fmt: skip
        self.keep("two", self.sign(stone, self.ada), "", 9, self.ada)

    def _strange(self, cell: str, release: str) -> None:
        evil = self.release(cell, 7, self.stranger)
        self.deployment(cell, evil, 8, self.stranger)
        self.deployment(cell, evil, 8, self.ada)
        self.deployment(cell, release, 8, self.ada, environments=("prod",))
        self.deployment(cell, release, 8, self.ada, cluster_selector=Selector(names=("us-1",)))
        self.deployment(cell, release, 8, self.ada, realm="sha256:" + "b" * 64)
        self.deployment(cell, release, 8, self.ada, sequence=2**53 - 1)
        self.deployment(cell, release, 8, self.ada, not_after=self.began + timedelta(minutes=20))
        other = self.past.honest[cell][0]
        self.sign(
            Approval(
                realm=self.past.realm, project="shop", deployment_digest=other, environment="dev",
                issued_at=self.at(1), not_after=self.began + timedelta(days=1),
            ),
            self.stranger,
        )  # fmt: skip

    def policy(self) -> None:
        """A row of sets: a key is lost, a cell quarantined, the cluster locked and unlocked, two owners are needed."""
        world = self.past.policy
        good = (
            self.entry(self.ada, "ada"), self.entry(self.spare, "ada"), self.entry(self.carol, "carol"),
        )  # fmt: skip
        both = Keyring(self.past.realm, 1, (*good, self.entry(self.bob, "bob")))
        lost = Keyring(self.past.realm, 2, (*good, self.entry(self.bob, "bob", state="compromised")))
        at = now()
        closed = Revocations(self.past.realm, quarantines=(SignedQuarantine("shop", "one", "dev", "leaks", at),))
        locked = Revocations(self.past.realm, locks=(SignedLock("cluster", "eu-1", "stolen", at),))
        world.record = replace(world.record, keyring=both)
        self._published(lambda: world.publish(denying("Bad")))
        self._published(lambda: world.publish(denying("Bad", version="1.1.0")))
        self._published(lambda: world.amend(keyring=lost))
        self._published(lambda: world.amend(revocations=closed))
        self._published(lambda: world.amend(revocations=locked))
        self._published(lambda: world.amend(revocations=Revocations(self.past.realm)))
        self._published(lambda: world.publish(denying("Bad", version="1.2.0"), thresholds={"deployment": 2}), 2)
        world.rotate()
        self._published(world.refresh)
        stranger = PolicyWorld()
        stranger.publish(denying("Worse"))
        self.past.foreign = stranger.source

    def _published(self, publish: Callable[[], object], owners: int = 0) -> None:
        publish()
        source = self.past.policy.source
        newest = {role: max(number for name, number in source.metadata if name == role) for role, _ in source.metadata}
        self.past.sets.append({role: (number, source.metadata[role, number]) for role, number in newest.items()})
        record = self.past.policy.record
        before = self.past.contents[-1][2] if self.past.contents else {}
        self.past.contents.append((record.keyring, record.revocations, {"deployment": owners} if owners else before))


def make_past() -> Past:
    """Sign everything once."""
    past = Past(PolicyWorld())
    signing = _Signing(past)
    signing.policy()
    signing.documents()
    return past


class _View(Policy):
    """The policy of the agent's own store, with an evaluator that allows."""

    def __init__(self, store: PolicyStore) -> None:
        super().__init__(None, FakeEvaluator())
        self.store = store


@dataclass
class _Served:
    """What a hub serves at one refresh, read as the agent's worker thread does."""

    source: MemorySource

    def metadata(self, role: str, version: int | None, limit: int) -> bytes | None:
        if version is None:
            version = max((number for name, number in self.source.metadata if name == role), default=0)
        data = self.source.metadata.get((role, version))
        return None if data is None or len(data) > limit else data

    def target(self, digest: str, limit: int) -> bytes | None:
        data = self.source.targets.get(digest)
        return None if data is None or len(data) > limit else data


class Told(World):
    """One agent; ``hub.documents`` is what the hub answers at the moment."""

    def __init__(self, past: Past, directory: Path, kube: FakeKube, guards: Any) -> None:
        super().__init__(directory, kube, guards)
        self.past = past
        self.busy = 0
        self.items: DesiredItems
        self.keeper: AnchorKeeper
        self.listing = Listing()
        self._open_store()

    def _open_store(self) -> None:
        self.store = PolicyStore(self.directory / "policy", root=self.past.policy.root, realm=self.past.realm)
        self.policy = _View(self.store)
        copied = None if self.anchor.state is None else self.anchor.state.floors.policy
        kept = None if copied is None else PolicyFloors.from_json(copied)
        self.policy.current = self.store.load(select_all, kept).verified

    async def _start(self) -> None:
        await super()._start()
        self.keeper = AnchorKeeper(self.state, self.anchor, self.timer, self.health, 3600)
        self.items = DesiredItems(self.state, self, self.recorder, self.health, self.timer, lambda: None)  # type: ignore[arg-type]
        await self.listen(0)

    async def _stop(self) -> None:
        if self._task is not None:
            await self.items.close()
        await super()._stop()

    # -- ports of the link --------------------------------------------------------------------------------------------

    async def on_item(self, item: DesiredItem) -> None:
        """Hand it to the engine."""
        await self.engine.submit(item)

    async def on_withdrawn(self, item: DesiredItem) -> bool:
        """Forget it where nothing came of it."""
        return await self.engine.withdraw(item)

    async def on_full(self) -> Sequence[CellKey]:
        """As Reception does."""
        return await self.engine.make_room()

    async def on_refused(self, receipt: ReceiptFacts) -> None:
        """Note the refusal."""
        self.receipts.append(receipt)

    # -- what a hub can do --------------------------------------------------------------------------------------------

    async def listen(self, revision: int, epoch: str = "e1") -> None:
        """Begin a session."""
        self.listing = Listing()
        await self.items.position(self.listing)
        self.listing.revision = revision
        await self.items.welcomed(self.listing, epoch)

    async def refresh(self, source: MemorySource) -> str:
        """Take the policy that is served; returns the code of its refusal, empty for none."""
        at = datetime.now(UTC)
        try:
            candidate = self.store.fetch(_Served(source), select_all, at)
            if self.store.changed(candidate):
                self.store.commit(candidate, at, "")
                await self.state.policy_floors.set(self.store.floors.to_json())
                await self.keeper.save_floors()
                self.policy.current = candidate.verified
                self.engine.reconsider()
        except CellwardError as error:
            return error.code
        return ""

    async def again(self, *, lost: bool) -> None:
        """Stop, and start from the disk, or where the disk is lost, from the copy of the floors alone."""
        await self._stop()
        if lost:
            shutil.rmtree(self.directory)
        self._open_store()
        await self._start()

    async def quiet(self) -> None:
        """Wait until nothing is left to do but what waits for time."""
        workers = self.engine._roster.workers

        def idle() -> bool:
            waiting = any(one.is_waiting for one in workers.values())
            return not self.busy and not waiting

        deadline = asyncio.get_running_loop().time() + 30
        while True:
            # Once more after it looked idle: a watch may have something for a worker.
            for _ in range(5):
                await asyncio.sleep(0)
            if idle():
                return
            assert asyncio.get_running_loop().time() < deadline, [one.cell.report() for one in workers.values()]
            await asyncio.sleep(0.001)

    # -- what came of it ----------------------------------------------------------------------------------------------

    @property
    def verified(self) -> VerifiedSet | None:
        """The policy in force."""
        return self.policy.current

    def records(self) -> Mapping[Key, CellRecord]:  # type: ignore[override]
        """What is in force of each cell."""
        return {tuple(key): worker.cell.record for key, worker in self.engine._roster.workers.items()}  # type: ignore[misc]

    async def kept(self) -> Mapping[Key, CellRecord]:
        """The same, as it is on disk."""
        found = [await self.state.inventory.get(name) for name in await self.state.inventory.namespaces()]
        return {record.key: record for record in map(record_from_json, found)}


@dataclass(repr=False)
class Ground:
    """What every agent of the property begins on: one past, and a cluster with the chart's fence."""

    past: Past
    kube: FakeKube
    guards: Any

    def __repr__(self) -> str:
        """Nothing of what it holds: Hypothesis would print all of it."""
        return "ground"

    @classmethod
    async def make(cls) -> Ground:
        """Make it once."""
        return cls(make_past(), await fenced(), load_guards(CHART_FILES))

    @contextlib.asynccontextmanager
    async def agent(self, directory: Path) -> AsyncIterator[Told]:
        """Run one agent on a state of its own."""
        told = Told(self.past, directory, copy.deepcopy(self.kube), self.guards)
        turn = CellWorker._turn

        async def counted(worker: CellWorker) -> None:
            told.busy += 1
            try:
                await turn(worker)
            finally:
                told.busy -= 1

        with (
            mock.patch.object(cell_world, "REALM", self.past.realm),
            mock.patch.object(CellWorker, "_turn", counted),
        ):
            async with told.running():
                yield told
