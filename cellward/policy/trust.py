"""Rules of acceptance over TUF metadata: realm, chain of roots, floors, lifetimes. Pure functions over bytes.

python-tuf decides first whether new content is authentic; what stands here it does not do: a key id is that of its key,
so that whoever compares ids compares keys, and one key does not count twice; each role lists what is its own and no
more; floors survive root rotation and replaced keys; a timestamp may not live longer than a day; and a set can be
verified again offline, past its timestamp (V8).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib.signer import Key, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Delegations, Metadata, Role, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import CanonicalJSONSerializer

from cellward.documents import numbers
from cellward.documents.canonical import MAX_INT
from cellward.policy.errors import (
    BAD_ROOT,
    EXPIRED,
    INCOMPLETE,
    OLD_BASE,
    ROLLBACK,
    TIMESTAMP_TOO_LONG,
    UNVERIFIED,
)
from cellward.policy.floors import PolicyFloors, RoleFloor
from cellward.policy.model import KEYRING_ROLE, KEYRING_TARGET, REVOCATIONS_TARGET
from cellward.policy.signing import tuf_key

#: A timestamp that lives longer from now on is refused: it would let whoever holds the hub's key freeze policy.
TIMESTAMP_MAX_LIFE = timedelta(hours=24)
#: Tolerated difference between the hub's and the agent's clock.
CLOCK_SKEW = timedelta(minutes=5)
#: Signed beside what TUF knows, in targets and keyring metadata: what they were made from.
BASE_FIELD = "x-cellward-base"
#: Highest version of any role: what JSON, SQL and the wire all keep exactly.
MAX_VERSION = MAX_INT

_S = TypeVar("_S", Root, Timestamp, Snapshot, Targets)
_ED25519 = "ed25519"
_SCHEMES = frozenset({_ED25519, "ecdsa-sha2-nistp256"})


@dataclass(frozen=True, slots=True)
class MetadataSet:
    """The exact bytes of one consistent set; ``roots`` from the bootstrap root on, ascending by one."""

    roots: tuple[bytes, ...]
    timestamp: bytes
    snapshot: bytes
    targets: bytes
    keyring: bytes


@dataclass(frozen=True, slots=True)
class ParsedSet:
    """A :class:`MetadataSet` whose signatures, versions and structure verify; expiry is not part of that."""

    source: MetadataSet
    roots: tuple[Root, ...]
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets
    keyring: Targets

    @property
    def root(self) -> Root:
        """The newest root."""
        return self.roots[-1]


def digest_of(data: bytes) -> str:
    """Return ``sha256:<hex>`` of bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def floor_of(signed: Signed) -> RoleFloor:
    """Return version and identity of metadata: the digest of its signed part, in the form its signatures are over.

    The one thing that metadata is compared by. Signatures are no part of it: anybody who carries a file may add one
    that nobody knows, and a signer one more of m of n, and it is the document that it was.
    """
    return RoleFloor(signed.version, digest_of(CanonicalJSONSerializer().serialize(signed)))


def floor_in(role: str, data: bytes) -> RoleFloor:
    """Return :func:`floor_of` of a file of a role; its signatures are not verified. Raises what :func:`parse` does."""
    if role == Root.type:
        return floor_of(parse(Root, data).signed)
    if role == Timestamp.type:
        return floor_of(parse(Timestamp, data).signed)
    return floor_of(parse(Snapshot, data).signed if role == Snapshot.type else parse(Targets, data).signed)


def parse(kind: type[_S], data: bytes) -> Metadata[_S]:
    """Parse metadata of one kind without verifying its signatures; its key ids are those of its keys.

    Raises policy/unverified when it is something else, policy/bad-root as :func:`check_keys` does.
    """
    try:
        metadata = Metadata.from_bytes(data)
    except (DeserializationError, ValueError, RecursionError) as error:
        raise UNVERIFIED(f"{kind.type} metadata does not parse") from error
    if metadata.signed.type != kind.type:
        raise UNVERIFIED(f"expected {kind.type} metadata, got {metadata.signed.type}")
    if metadata.signed.version > MAX_VERSION:
        raise UNVERIFIED(f"{kind.type} metadata has a version beyond 2^53")
    # The one door of all metadata, on every side: whoever has an id from it may take it for the key.
    if isinstance(metadata.signed, Root):
        check_keys(metadata.signed.keys, metadata.signed.roles)
    elif isinstance(metadata.signed, Targets) and metadata.signed.delegations is not None:
        check_keys(metadata.signed.delegations.keys, metadata.signed.delegations.roles or {})
    return metadata  # type: ignore[return-value]


def realm_of(root_v1: bytes) -> str:
    """Return the realm: sha256 of the signed part of root version 1.

    Raises policy/bad-root when it is not a self-signed root of version 1.
    """
    try:
        metadata = parse(Root, root_v1)
        metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except RepositoryError as error:
        raise BAD_ROOT("the root does not verify by its own keys") from error
    if metadata.signed.version != 1:
        raise BAD_ROOT(f"the realm comes from root version 1, this is version {metadata.signed.version}")
    check_root(metadata.signed)
    return digest_of(metadata.signed_bytes)


def check_root(root: Root) -> None:
    """Check what python-tuf does not: consistent snapshots, and keys as :func:`check_keys` has them."""
    if not root.consistent_snapshot:
        raise BAD_ROOT("the root does not use consistent snapshots")
    check_keys(root.keys, root.roles)


def check_keys(keys: Mapping[str, Key], roles: Mapping[str, Role]) -> None:
    """Refuse a key whose id is not the sha256 of it, a key in any other form than ours, and a role without its keys.

    TUF lets an id be any text. People compare ids and sign what they name, and one key under two ids would count twice.
    Raises policy/bad-root.
    """
    for keyid, key in keys.items():
        named = ", ".join(sorted(name for name, role in roles.items() if keyid in role.keyids)) or "no role"
        if key.scheme not in _SCHEMES:
            raise BAD_ROOT(f"a key of {named} is of scheme {key.scheme!r}, which is not known here")
        usual = tuf_key(spki_of(key, named))
        if not keyid == key.keyid == usual.keyid:
            raise BAD_ROOT(f"a key of {named} has the id {keyid[:80]!r}; that of the key is {usual.keyid}", role=named)
        if key.to_dict() != usual.to_dict():
            raise BAD_ROOT(f"key {keyid} of {named} is not in its usual form", role=named)
    for name, role in roles.items():
        if absent := [keyid for keyid in role.keyids if keyid not in keys]:
            raise BAD_ROOT(f"role {name} names the key {absent[0][:80]!r}, which is not there", role=name)


def hub_keys(roots: Sequence[Root]) -> frozenset[bytes]:
    """Return every key that signs or signed timestamps, as :func:`point_of` gives it."""
    return frozenset(
        point_of(spki_of(root.keys[keyid], Timestamp.type))
        for root in roots
        for keyid in root.roles[Timestamp.type].keyids
    )


def point_of(spki_der: bytes) -> bytes:
    """Return the key itself, to compare it with the keys of a root; what cannot be read is itself."""
    try:
        found = serialization.load_der_public_key(spki_der)
    except (ValueError, UnsupportedAlgorithm):
        return spki_der
    if isinstance(found, ed25519.Ed25519PublicKey):
        return found.public_bytes_raw()
    return found.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def spki_of(key: Key, named: str) -> bytes:
    """Return a key as SubjectPublicKeyInfo (DER) in its usual encoding, of which its id is the sha256.

    ``named`` are the roles it is for. Raises policy/bad-root for what is no key.
    """
    text = str(key.keyval.get("public", "")) if isinstance(key, SSlibKey) else ""
    try:
        if key.scheme == _ED25519:
            found: object = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
        else:
            found = serialization.load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BAD_ROOT(f"a key of {named} is not a public key", role=named) from error
    p256 = isinstance(found, ec.EllipticCurvePublicKey) and isinstance(found.curve, ec.SECP256R1)
    if not isinstance(found, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey) or (key.scheme != _ED25519) != p256:
        raise BAD_ROOT(f"a key of {named} is neither Ed25519 nor ECDSA P-256", role=named)
    return found.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def verify_set(source: MetadataSet) -> ParsedSet:
    """Verify a whole set offline by its signatures and versions, starting from the first root, which is trusted.

    Raises policy/unverified, policy/bad-root or policy/incomplete-set. Expiry is looked at elsewhere, so that an
    accepted set stays usable offline.
    """
    try:
        roots = _verify_roots(source.roots)
        root = roots[-1]
        timestamp = _signed_by(root, parse(Timestamp, source.timestamp), Timestamp.type)
        timestamp.snapshot_meta.verify_length_and_hashes(source.snapshot)
        snapshot = _signed_by(root, parse(Snapshot, source.snapshot), Snapshot.type)
        targets = _signed_by(root, parse(Targets, source.targets), Targets.type)
        check_delegation(targets)
        keyring = _signed_by(targets, parse(Targets, source.keyring), KEYRING_ROLE)
        _check_versions(
            timestamp, snapshot, {"targets": (targets, source.targets), KEYRING_ROLE: (keyring, source.keyring)}
        )
    except RepositoryError as error:
        raise UNVERIFIED(f"the policy metadata does not verify: {error}") from error
    check_keyring(keyring)
    for signed in (targets, keyring):
        base_of(signed)
    return ParsedSet(source, roots, timestamp, snapshot, targets, keyring)


def _verify_roots(chain: tuple[bytes, ...]) -> tuple[Root, ...]:
    roots: list[Root] = []
    for data in chain:
        metadata = parse(Root, data)
        trusted = roots[-1] if roots else metadata.signed
        trusted.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
        metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
        if roots and metadata.signed.version != trusted.version + 1:
            raise UNVERIFIED("the versions of the roots do not follow one another")
        check_root(metadata.signed)
        roots.append(metadata.signed)
    if not roots:
        raise INCOMPLETE("there is no root")
    return tuple(roots)


def _signed_by(delegator: Root | Targets, metadata: Metadata[_S], role: str) -> _S:
    delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    return metadata.signed


def _check_versions(timestamp: Timestamp, snapshot: Snapshot, roles: Mapping[str, tuple[Targets, bytes]]) -> None:
    if snapshot.version != timestamp.snapshot_meta.version:
        raise UNVERIFIED("the snapshot is not the one the timestamp names")
    if set(snapshot.meta) != {f"{role}.json" for role in roles}:
        raise UNVERIFIED("the snapshot must name targets and keyring, and nothing else")
    for role, (signed, data) in roles.items():
        meta = snapshot.meta[f"{role}.json"]
        meta.verify_length_and_hashes(data)
        if signed.version != meta.version:
            raise UNVERIFIED(f"{role} is not of the version the snapshot names")


def check_delegation(targets: Targets) -> None:
    """Check that the top-level targets delegate exactly ``keyring/*`` to role keyring, and list no such path.

    With :func:`check_keyring` no path is listed by both roles. Raises policy/unverified, policy/bad-root.
    """
    delegations: Delegations | None = targets.delegations
    roles = delegations.roles if delegations is not None else None
    if delegations is None or roles is None or set(roles) != {KEYRING_ROLE} or delegations.succinct_roles is not None:
        raise UNVERIFIED("the targets must delegate to role keyring, and to no other")
    role = roles[KEYRING_ROLE]
    if role.paths != [f"{KEYRING_ROLE}/*"] or role.path_hash_prefixes is not None or not role.terminating:
        raise UNVERIFIED("role keyring must be given exactly the paths keyring/*, terminating")
    if any(path.startswith(f"{KEYRING_ROLE}/") for path in targets.targets):
        raise UNVERIFIED("the targets list a path that belongs to role keyring")
    check_keys(delegations.keys, roles)


def check_keyring(keyring: Targets) -> None:
    """Check that the keyring role lists keyring and revocations alone: another path could hide one of the targets'."""
    if keyring.delegations is not None or set(keyring.targets) != {KEYRING_TARGET, REVOCATIONS_TARGET}:
        raise UNVERIFIED(f"the keyring role must hold {KEYRING_TARGET} and {REVOCATIONS_TARGET}, and nothing else")


def base_of(signed: Targets) -> RoleFloor | None:
    """Return what signed metadata says it was made from: :func:`floor_of` its own role's, None for the first.

    Raises policy/unverified when it does not say so: whoever signs without knowing what is in force must not be heard.
    """
    base = signed.unrecognized_fields.get(BASE_FIELD, False)
    if base is None:
        return None
    version, digest = (base.get("version"), base.get("digest")) if isinstance(base, dict) else (None, None)
    if type(version) is not int or not isinstance(digest, str) or not digest or len(base) != 2:
        raise UNVERIFIED(f"version {signed.version} of targets or keyring does not say what it is based on")
    return RoleFloor(version, digest)


def accept(parsed: ParsedSet, floors: PolicyFloors, now: datetime) -> PolicyFloors:
    """Decide whether a verified set may replace the accepted one; return the new floors.

    Invariants: no role goes back or takes a version of the future; what replaces targets or keyring was made by
    somebody who knew at least what is in force. The floor of the timestamp alone may go down, and only when a newer
    root names other timestamp keys (recovery from a stolen one).

    Raises policy/expired, policy/timestamp-too-long, policy/rollback, policy/old-base or
    document/number-ahead.
    """
    check_lifetimes(parsed, now)
    found = floors_of(parsed)
    result = dict(floors.roles)
    for role, new in found.items():
        old = floors.get(role)
        if old is not None and not (role == Timestamp.type and _timestamp_reset(parsed, floors)):
            _check_floor(role, old, new)
        result[role] = new
    for role, signed in ((Targets.type, parsed.targets), (KEYRING_ROLE, parsed.keyring)):
        _check_base(role, floors.get(role), signed)
    return PolicyFloors(result, floors.keys)


def _check_base(role: str, old: RoleFloor | None, signed: Targets) -> None:
    if old is None or signed.version <= old.version:
        return
    base = base_of(signed)
    if base is None or base.version < old.version or (base.version == old.version and base.differs_from(old)):
        made = "from nothing" if base is None else f"from version {base.version}"
        raise OLD_BASE(f"{role} version {signed.version} was made {made}, version {old.version} is in force", role=role)


def floors_of(parsed: ParsedSet) -> dict[str, RoleFloor]:
    """Return version and identity of each role of a set."""
    return {
        Root.type: floor_of(parsed.root),
        Timestamp.type: floor_of(parsed.timestamp),
        Snapshot.type: floor_of(parsed.snapshot),
        Targets.type: floor_of(parsed.targets),
        KEYRING_ROLE: floor_of(parsed.keyring),
    }


def check_lifetimes(parsed: ParsedSet, now: datetime) -> None:
    """Refuse expired metadata, a timestamp that lives longer than a day from now, and versions of the future.

    Versions are milliseconds of the signer's clock, those of the root apart, which count by one.
    """
    for signed, role in (
        (parsed.root, Root.type),
        (parsed.timestamp, Timestamp.type),
        (parsed.snapshot, Snapshot.type),
        (parsed.targets, Targets.type),
        (parsed.keyring, KEYRING_ROLE),
    ):
        if signed.expires <= now:
            raise EXPIRED(f"{role} version {signed.version} expired at {signed.expires:%Y-%m-%dT%H:%M:%SZ}", role=role)
    if parsed.timestamp.expires > now + TIMESTAMP_MAX_LIFE + CLOCK_SKEW:
        raise TIMESTAMP_TOO_LONG(
            f"timestamp version {parsed.timestamp.version} lives until {parsed.timestamp.expires:%Y-%m-%dT%H:%M:%SZ}"
        )

    for numbered, role in (
        (parsed.timestamp, Timestamp.type),
        (parsed.snapshot, Snapshot.type),
        (parsed.targets, Targets.type),
        (parsed.keyring, KEYRING_ROLE),
    ):
        numbers.check_number(numbered.version, now, f"the version of {role}")


def _check_floor(role: str, old: RoleFloor, new: RoleFloor) -> None:
    if new.version < old.version:
        raise ROLLBACK(f"{role} version {new.version} is older than version {old.version}", role=role)
    if new.version == old.version and new.differs_from(old):
        raise ROLLBACK(f"{role} version {new.version} was accepted before with other content", role=role)


def _timestamp_reset(parsed: ParsedSet, floors: PolicyFloors) -> bool:
    old = floors.get(Root.type)
    if old is None or parsed.root.version <= old.version:
        return False
    before = [root for root in parsed.roots if root.version == old.version]
    if not before:
        return False
    return set(before[0].roles[Timestamp.type].keyids) != set(parsed.root.roles[Timestamp.type].keyids)
