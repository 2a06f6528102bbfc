"""What a hub shows as published, read by a publisher: verified, and then only compared with the publishers' record.

Nothing of it is ever signed again. It says two things: that somebody signed something newer already, and from which
number of a snapshot to go on. What only a key of an older root signed says neither: since the rotation whoever stole it
can sign any number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets

from cellward.policy import trust
from cellward.policy.errors import INCOMPLETE, UNVERIFIED
from cellward.policy.floors import PolicyFloors, RoleFloor
from cellward.policy.model import KEYRING_ROLE


@dataclass(frozen=True, slots=True)
class RepositoryState:
    """What is published now: all roots from version 1 on, and the newest of each other role (None before the first)."""

    roots: tuple[bytes, ...]
    targets: bytes | None = None
    keyring: bytes | None = None
    snapshot: bytes | None = None


def seen_in(state: RepositoryState, own: Sequence[bytes]) -> PolicyFloors:
    """Return version and identity of everything in a state that counts, by the newest root of it and of ``own``.

    ``own`` is a verified chain of roots that begins with the first, which is ours. Targets, keyring and snapshot that
    an older root verifies and the newest does not are left out: they may be what is still served since before a
    rotation, and are never something newer.

    Raises policy/unverified for what no root verifies: a hub that shows it is broken, or somebody else's.
    """
    if not state.roots:
        return PolicyFloors()
    try:
        roots = (own[0], *state.roots[1:])
        newest = verified_roots(roots)
        found = {Root.type: trust.floor_of(newest)}
        chain = own if len(own) > len(roots) else roots
        found.update(_roles(state, chain))
    except RepositoryError as error:
        raise UNVERIFIED(f"what the hub says is published does not verify: {error}") from error
    return PolicyFloors(found)


def _roles(state: RepositoryState, chain: Sequence[bytes]) -> Iterator[tuple[str, RoleFloor]]:
    """Targets, keyring and snapshot whose keys the newest root of a chain still names."""
    targets = None if state.targets is None else trust.parse(Targets, state.targets)
    if targets is not None and _counts(chain, Targets.type, targets):
        yield Targets.type, trust.floor_of(targets.signed)
    if state.keyring is not None:
        if targets is None:
            raise INCOMPLETE("there is a keyring, but no targets that delegate to it")
        keyring = trust.parse(Targets, state.keyring)
        targets.signed.verify_delegate(KEYRING_ROLE, keyring.signed_bytes, keyring.signatures)
        if _counts(chain, Targets.type, targets):
            yield KEYRING_ROLE, trust.floor_of(keyring.signed)
    if state.snapshot is not None:
        snapshot = trust.parse(Snapshot, state.snapshot)
        if _counts(chain, Snapshot.type, snapshot):
            yield Snapshot.type, trust.floor_of(snapshot.signed)


def _counts(chain: Sequence[bytes], role: str, metadata: Metadata[Targets] | Metadata[Snapshot]) -> bool:
    """Whether the newest root verifies it, not only an older one; raises what TUF raises where none does."""
    failure = UnsignedMetadataError(f"no root signs for {role}")
    for age, data in enumerate(reversed(chain)):
        try:
            trust.parse(Root, data).signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        except UnsignedMetadataError as error:
            failure = error
        else:
            return age == 0
    raise failure


def verified_roots(roots: Sequence[bytes]) -> Root:
    """Return the newest root of a chain, verified from the first one on; versions follow one another.

    Raises what TUF raises, policy/bad-root, policy/unverified for a root shown twice or left out, or
    policy/incomplete-set for none.
    """
    previous: Root | None = None
    for data in roots:
        metadata = trust.parse(Root, data)
        (previous or metadata.signed).verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
        metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
        trust.check_root(metadata.signed)
        if previous is not None and metadata.signed.version != previous.version + 1:
            raise UNVERIFIED(
                f"root version {metadata.signed.version} follows version {previous.version}; a root is shown twice or "
                "left out"
            )
        previous = metadata.signed
    if previous is None:
        raise INCOMPLETE("there is no root")
    return previous
