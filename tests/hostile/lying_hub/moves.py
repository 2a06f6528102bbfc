"""What a hub that holds every key of a hub may hand to an agent, for Hypothesis to choose from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from hypothesis import strategies as st

from cellward.policy.publisher import MetadataFile, sign_timestamp
from cellward.wire.v1 import link_pb2
from tests.fakes.policy import MemorySource
from tests.hostile.lying_hub.agent import CELLS, Past, Told

KEYS = (
    *(("shop", cell, "dev") for cell in CELLS), ("shop", "one", "prod"), ("other", "one", "dev"),
    ("shop", "three", "dev"), ("shop", "a--b", "dev"), ("..", "\n", ""), ("kube", "system", "dev"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Twist:
    """What is made of the bytes of one thing."""

    kind: str
    number: int = 0

    def of(self, data: bytes, others: list[bytes]) -> bytes | None:
        """The bytes that are served in its place, None for none."""
        if self.kind == "absent":
            return None
        if self.kind == "short":
            return data[: self.number % len(data)]
        if self.kind == "changed":
            at = self.number % len(data)
            return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        if self.kind == "other":
            return others[self.number % len(others)]
        return _unsigned(data) if self.kind == "unsigned" else data


def _unsigned(data: bytes) -> bytes:
    try:
        body = json.loads(data)
    except ValueError:
        return b""
    return json.dumps({**body, "signatures": []}).encode()


@dataclass(frozen=True, slots=True)
class Policy:
    """Serve policy put together from several sets and refresh; ``stamp`` is how far ahead a new timestamp is."""

    picks: tuple[int, int, int]
    roots: int
    stamp: int | None = 0
    life: int = 12
    twisted: tuple[int, Twist] | None = None
    foreign: bool = False

    async def play(self, told: Told) -> None:
        """Serve it."""
        await told.refresh(self._source(told.past))

    def _source(self, past: Past) -> MemorySource:
        targets, keyring, snapshot = (past.sets[pick % len(past.sets)] for pick in self.picks)
        roots = {
            key: data for key, data in past.policy.source.metadata.items() if key[0] == "root" and key[1] <= self.roots
        }
        metadata = {
            **roots,
            ("snapshot", snapshot["snapshot"][0]): snapshot["snapshot"][1],
            # Under the number that the snapshot names, whatever it is.
            ("targets", snapshot["targets"][0]): targets["targets"][1],
            ("keyring", snapshot["keyring"][0]): keyring["keyring"][1],
        }
        if self.foreign:
            metadata |= past.foreign.metadata
        newest = max(key for key in metadata if key[0] == "snapshot")
        metadata |= self._stamp(past, snapshot, MetadataFile("snapshot", newest[1], metadata[newest]))
        contents = {**past.policy.source.targets, **(past.foreign.targets if self.foreign else {})}
        if self.twisted is not None:
            at, twist = self.twisted
            served: dict[object, bytes] = {**metadata, **contents}
            name = sorted(served, key=str)[at % len(served)]
            data = twist.of(served[name], list(served.values()))
            place: dict[object, bytes] = metadata if name in metadata else contents  # type: ignore[assignment]
            place.pop(name, None)
            if data is not None:
                place[name] = data
        return MemorySource(metadata, contents)

    def _stamp(
        self, past: Past, snapshot: Mapping[str, tuple[int, bytes]], named: MetadataFile
    ) -> dict[tuple[str, int], bytes]:
        if self.stamp is None:
            number, data = snapshot["timestamp"]
            return {("timestamp", number): data}
        now = datetime.now(UTC)
        number = int(now.timestamp() * 1000) + self.stamp
        life = timedelta(hours=self.life)
        return {("timestamp", number): sign_timestamp(number, named, past.policy.hub_key, now=now, life=life)}


@dataclass(frozen=True, slots=True)
class Item:
    """One desired item as it comes over the wire, and what is served of its document."""

    key: int
    document: int
    state: int = 1
    revision: int = 1
    evidence: tuple[int, ...] = ()
    twist: Twist = Twist("true")

    def message(self, past: Past) -> link_pb2.DesiredItem:
        """The message; a document beyond those there are is none."""
        project, cell, environment = KEYS[self.key % len(KEYS)]
        return link_pb2.DesiredItem(
            revision=self.revision, project=project, cell=cell, environment=environment,
            deployment_digest=_digest(past, self.document), evidence=[_digest(past, one) for one in self.evidence],
            hub_state=self.state,  # type: ignore[arg-type]
        )  # fmt: skip


def _digest(past: Past, number: int) -> str:
    known = [*past.digests, "sha256:" + "0" * 64, "md5:1", ""]
    return known[number % len(known)]


@dataclass(frozen=True, slots=True)
class Items:
    """Several items at once."""

    items: tuple[Item, ...]

    async def play(self, told: Told) -> None:
        """Hand them over, each as it is served now."""
        past = told.past
        documents: dict[str, bytes] = dict(past.envelopes)
        for item in self.items:
            digest = _digest(past, item.document)
            data = past.envelopes.get(digest, b"")
            served = item.twist.of(data, list(past.envelopes.values())) if data else None
            documents.pop(digest, None)
            if served is not None:
                documents[digest] = served
        told.hub.documents = documents
        for item in self.items:
            await told.items.take(told.listing, item.message(past))


@dataclass(frozen=True, slots=True)
class Session:
    """Begin a session, or say that everything was named."""

    revision: int
    epoch: str
    mark: str | None = None

    async def play(self, told: Told) -> None:
        """Do it."""
        if self.mark is None:
            await told.listen(self.revision, self.epoch)
        else:
            mark = link_pb2.RevisionMark(revision=self.revision, items_digest=self.mark)
            await told.items.reached(told.listing, mark)


@dataclass(frozen=True, slots=True)
class Again:
    """Let the agent start anew, with its disk or after it was lost, or look at everything again."""

    how: Literal["restart", "lost", "resync"]

    async def play(self, told: Told) -> None:
        """Do it."""
        if self.how == "resync":
            told.engine.resync()
        else:
            await told.again(lost=self.how == "lost")


@dataclass(frozen=True, slots=True)
class Listed:
    """Name everything there is to be named anew, and twice, so that what is left out counts as withdrawn."""

    items: Items
    mark: str = "sha256:" + "0" * 64

    async def play(self, told: Told) -> None:
        """Do it."""
        for _ in range(2):
            await told.listen(0)
            await self.items.play(told)
            await told.items.reached(told.listing, link_pb2.RevisionMark(revision=9, items_digest=self.mark))


Move = Policy | Items | Session | Listed | Again
TWISTS = st.builds(
    Twist, st.sampled_from(["true", "true", "true", "absent", "short", "changed", "other", "unsigned"]),
    st.integers(0, 2**16),
)  # fmt: skip
_ITEM = st.builds(
    Item,
    key=st.one_of(st.integers(0, 1), st.integers(0, len(KEYS) - 1)),
    document=st.integers(0, 44),
    state=st.sampled_from([1, 1, 1, 1, 0, 2, 3, 77]),
    revision=st.sampled_from([0, 1, 2, 5, 2**53 - 1, 2**63]),
    evidence=st.lists(st.integers(0, 44), max_size=3).map(tuple),
    twist=TWISTS,
)
ITEMS = st.builds(Items, st.lists(_ITEM, min_size=1, max_size=3).map(tuple))
#: A set as it was published, also under a timestamp that the hub makes anew.
WHOLE = st.builds(
    lambda pick, stamp: Policy((pick, pick, pick), 9, stamp), st.integers(0, 7), st.sampled_from([None, 0, 300_000])
)
MIXED = st.builds(
    Policy,
    picks=st.tuples(*[st.integers(0, 7)] * 3),
    roots=st.sampled_from([1, 2, 9]),
    stamp=st.sampled_from([None, -5000, 0, 300_000, 900_000]),
    life=st.sampled_from([1, 12, 12, 30, -1]),
    twisted=st.one_of(st.none(), st.tuples(st.integers(0, 30), TWISTS)),
    foreign=st.sampled_from([False, False, False, True]),
)
SESSIONS = st.one_of(
    st.builds(Session, st.sampled_from([0, 1, 7]), st.sampled_from(["e1", "e2"])),
    st.builds(Session, st.sampled_from([0, 3, 2**63]), st.just(""), st.sampled_from(["", "sha256:" + "0" * 64])),
)
MOVES: st.SearchStrategy[Move] = st.one_of(
    ITEMS,
    ITEMS,
    WHOLE,
    MIXED,
    SESSIONS,
    st.builds(Listed, ITEMS),
    st.builds(Again, st.sampled_from(["resync", "restart", "lost"])),
)
