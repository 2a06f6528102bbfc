"""A whole policy authority in memory: keys, repository, a hub's timestamp, and a source that agents fetch from.

Everything is signed for real; python-tuf looks at the wall clock, so times are relative to now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets

from agent.policy.interfaces import FetchedSet
from cellward.documents.dsse import Ed25519Signer
from cellward.documents.facts import ClusterFacts, Selector
from cellward.documents.keyring import Keyring
from cellward.documents.numbers import next_number
from cellward.documents.revocations import Revocations
from cellward.policy import bundle as bundles
from cellward.policy.floors import PolicyFloors
from cellward.policy.model import KEYRING_ROLE, Binding, BindingSet, DecisionInput
from cellward.policy.published import RepositoryState
from cellward.policy.publisher import (
    MetadataFile,
    Publication,
    SigningKeys,
    create_root,
    publish,
    publish_keyring,
    refresh,
    rotate_root,
    sign_timestamp,
)
from cellward.policy.record import Record, RoleKeys
from cellward.policy.signing import TufSigner
from cellward.policy.trust import realm_of

FACTS = ClusterFacts(
    name="eu-1", uid="11111111-1111-4111-8111-111111111111", environments=("dev",), production=False, region="eu"
)


def now() -> datetime:
    """Return the wall clock, whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def moment() -> datetime:
    """Return the wall clock."""
    return datetime.now(UTC)


def module(package: str, body: str) -> bytes:
    """Return a Rego module."""
    return f"package {package}\n\n{body}\n".encode()


def archive(
    name: str,
    version: str,
    body: str,
    *,
    roots: Sequence[str] | None = None,
    extra: Mapping[str, bytes] | None = None,
    entrypoint: str | None = None,
) -> bytes:
    """Return a bundle archive with one module of package ``name`` and that body, built without any check."""
    manifest = {
        "revision": version,
        "roots": [name] if roots is None else list(roots),
        "rego_version": 1,
        "metadata": {"cellward": {"name": name, "version": version, "entrypoint": entrypoint or f"{name}/deny"}},
    }
    files = {".manifest": json.dumps(manifest).encode(), f"{name}/main.rego": module(name, body), **(extra or {})}
    return bundles.pack(files)


def denying(kind: str, rule: str = "base/no", name: str = "base", version: str = "1.0.0") -> bytes:
    """Return a bundle that denies one kind of object."""
    body = (
        f'deny contains {{"rule": "{rule}", "reason": "no {kind}", "remediation": "leave it out"}} if '
        f'input.object.kind == "{kind}"'
    )
    return archive(name, version, body)


def binding(data: bytes, **changes: object) -> Binding:
    """Return a binding of a bundle to every cluster."""
    found = bundles.read_bundle(data)
    base = Binding(found.name, found.target_path, found.digest, Selector(all=True))
    return replace(base, **changes)  # type: ignore[arg-type]


def request(realm: str, *objects: Mapping[str, object], **changes: object) -> DecisionInput:
    """Return a decision request for objects."""
    base = DecisionInput(
        time=now(),
        realm=realm,
        facts=FACTS,
        environment="dev",
        project="shop",
        cell="front",
        release={"digest": "sha256:" + "1" * 64, "version": "1.0.0", "owner": "team"},
        deployment={"digest": "sha256:" + "2" * 64, "sequence": 1, "environments": ["dev"]},
        signers=(),
        isolation="unknown",
        objects=objects,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def thing(kind: str, name: str = "x") -> dict[str, object]:
    """Return an object of a kind."""
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "shop--front--dev"}}


@dataclass
class MemorySource:
    """A ContentSource over dictionaries that a test may tamper with; ``newest`` overrides the newest per role."""

    metadata: dict[tuple[str, int], bytes] = field(default_factory=dict)
    targets: dict[str, bytes] = field(default_factory=dict)
    down: bool = False
    asked: list[str] = field(default_factory=list)
    whole: bool = False

    async def fetch_digest(self, digest: str, limit: int) -> bytes | None:
        """Return a target."""
        self._ask(digest)
        return self.targets.get(digest)

    async def fetch_tuf(self, role: str, version: int | None, limit: int) -> bytes | None:
        """Return metadata; the newest is the highest version."""
        self._ask(f"{role}/{version}")
        if version is None:
            version = max((number for name, number in self.metadata if name == role), default=0)
        return self.metadata.get((role, version))

    async def fetch_set(self, root_version: int, snapshot_version: int, limit: int) -> FetchedSet | None:
        """Return the set in one piece when ``whole``; a hub of before knows no such thing."""
        if not self.whole:
            return None
        self._ask(f"set/{root_version}/{snapshot_version}")
        newest = {role: max(n for name, n in self.metadata if name == role) for role, _ in self.metadata}
        held = newest.get("snapshot") == snapshot_version
        wanted = {"timestamp"} if held else {"timestamp", "snapshot", "targets", KEYRING_ROLE}
        metadata = {
            (role, number): data
            for (role, number), data in self.metadata.items()
            if (role == "root" and number > root_version) or (role in wanted and number == newest[role])
        }
        return FetchedSet(metadata, () if held else tuple(self.targets.values()))

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.down:
            raise ConnectionError("the hub is away")

    def copy(self) -> MemorySource:
        """Return a copy to tamper with."""
        return MemorySource(dict(self.metadata), dict(self.targets), whole=self.whole)


class PolicyWorld:
    """Keys of every role and the repository they sign; ``source`` is what an honest hub would serve."""

    def __init__(self) -> None:
        self.root_key = Ed25519Signer.generate()
        self.policy_key = Ed25519Signer.generate()
        self.keyring_key = Ed25519Signer.generate()
        self.publisher_key = Ed25519Signer.generate()
        self.hub_key = Ed25519Signer.generate()
        self.root = create_root(
            root=keys_of(self.root_key),
            policy=keys_of(self.policy_key),
            publisher=keys_of(self.publisher_key),
            timestamp=keys_of(self.hub_key),
            signers=[self.root_key],
            now=now(),
        )
        self.realm = realm_of(self.root)
        self.record = Record(
            (self.root,), Keyring(self.realm, 1, ()), Revocations(self.realm), keys_of(self.keyring_key)
        )
        self.floors = PolicyFloors()
        self.source = MemorySource()
        self.timestamp_version = 0

    @property
    def keys(self) -> SigningKeys:
        """Every signer the publisher has."""
        return SigningKeys((self.root_key,), (self.policy_key,), (self.keyring_key,), (self.publisher_key,))

    @property
    def keyring(self) -> Keyring:
        """The keyring published last, empty at first."""
        return self.record.keyring

    @property
    def state(self) -> RepositoryState:
        """What an honest hub shows of what was published last."""
        snapshot = self.source.metadata.get(("snapshot", self.version("snapshot")))
        return RepositoryState(self.record.roots, self.record.targets, self.record.keyring_metadata, snapshot)

    def version(self, role: str) -> int:
        """Return the highest version served of a role."""
        return max((version for name, version in self.source.metadata if name == role), default=0)

    def forget(self) -> None:
        """Forget what was published, as a runner without the newest record would."""
        self.record = replace(self.record, targets=None, keyring_metadata=None, snapshot=0)
        self.floors = PolicyFloors()

    def make(
        self,
        archives: Sequence[bytes],
        chosen: Sequence[Binding] | None = None,
        *,
        at: datetime | None = None,
        keys: SigningKeys | None = None,
        **settings: object,
    ) -> Publication:
        """Make a publication above the present state without taking it over."""
        bound = [binding(data) for data in archives] if chosen is None else list(chosen)
        return publish(
            self.record,
            bundles=archives,
            bindings=BindingSet(self.realm, tuple(bound), **settings),  # type: ignore[arg-type]
            keys=keys or self.keys,
            now=at or moment(),
            seen=self.floors,
        )

    def publish(self, *archives: bytes, chosen: Sequence[Binding] | None = None, **options: object) -> Publication:
        """Publish, and serve it with a new timestamp."""
        publication = self.make(archives, chosen, **options)  # type: ignore[arg-type]
        self.take(publication)
        return publication

    def refresh(self, at: datetime | None = None) -> Publication:
        """Renew the snapshot, and serve it."""
        publication = refresh(self.record, keys=self.keys, now=at or moment(), seen=self.floors)
        self.take(publication)
        return publication

    def amend(self, **changes: object) -> Publication:
        """Publish another ``keyring`` or other ``revocations``, and serve it."""
        publication = publish_keyring(
            self.record,
            keys=self.keys,
            now=moment(),
            seen=self.floors,
            **changes,  # type: ignore[arg-type]
        )
        self.take(publication)
        return publication

    def rotate(self, **changes: RoleKeys) -> bytes:
        """Make the next root and serve it."""
        data = rotate_root(self.record.roots, changes=changes, signers=[self.root_key], now=now())
        self.record = replace(self.record, roots=(*self.record.roots, data))
        self.source.metadata["root", len(self.record.roots)] = data
        return data

    def forge(self, data: bytes) -> Publication:
        """Return a publication whose targets a wrong key signed, under a snapshot by the real publisher key."""
        honest = self.make([data])
        files = {file.role: file for file in honest.metadata}
        targets = Metadata[Targets].from_bytes(files["targets"].data)
        targets.sign(TufSigner(Ed25519Signer.generate()))
        files["targets"] = replace(files["targets"], data=targets.to_bytes())
        snapshot = Metadata[Snapshot].from_bytes(files["snapshot"].data)
        meta = files["targets"]
        snapshot.signed.meta["targets.json"] = MetaFile.from_data(meta.version, meta.data, ["sha256"])
        snapshot.sign(TufSigner(self.publisher_key))
        files["snapshot"] = replace(files["snapshot"], data=snapshot.to_bytes())
        return replace(honest, metadata=tuple(files.values()))

    def take(self, publication: Publication, *, timestamp: bool = True) -> None:
        """Make a publication the present state, and serve it."""
        self.floors = publication.floors
        assert publication.record is not None
        self.record = publication.record
        serve(self.source, publication)
        if timestamp:
            self.timestamp()

    def timestamp(
        self,
        source: MemorySource | None = None,
        *,
        life: timedelta = timedelta(hours=12),
        version: int | None = None,
        at: datetime | None = None,
        snapshot: MetadataFile | None = None,
    ) -> None:
        """Sign a timestamp with the hub's real key, for the newest snapshot unless another is named."""
        place = source or self.source
        self.timestamp_version = (
            version if version is not None else next_number(at or moment(), (self.timestamp_version,))
        )
        newest = max(number for role, number in place.metadata if role == "snapshot")
        named = snapshot or MetadataFile("snapshot", newest, place.metadata["snapshot", newest])
        data = sign_timestamp(self.timestamp_version, named, self.hub_key, now=at or now(), life=life)
        for key in [key for key in place.metadata if key[0] == "timestamp"]:
            del place.metadata[key]
        place.metadata["timestamp", self.timestamp_version] = data


def keys_of(*signers: Ed25519Signer, threshold: int = 1) -> RoleKeys:
    """Return the public keys of signers."""
    return RoleKeys(tuple(signer.public_spki_der for signer in signers), threshold)


def serve(source: MemorySource, publication: Publication) -> None:
    """Put a publication into a source."""
    for file in publication.metadata:
        source.metadata[file.role, file.version] = file.data
    source.targets.update(publication.targets)


def starter_archive() -> bytes:
    """Return the starter bundle as it is published."""
    return bundles.build_bundle(Path(__file__).parents[2] / "policies" / "starter")
