"""What a hub shows as published, read by a publisher: verified, and then only compared with the publishers' record.

Nothing of it is ever signed again. It says two things: that somebody signed something newer already, and from which
number of a snapshot to go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def seen_in(state: RepositoryState, root: bytes) -> PolicyFloors:
    """Return version and digest of everything in a state that verifies from ``root`` on, which is ours.

    Raises policy/unverified for what does not verify: a hub that shows it is broken, or somebody else's.
    """
    if not state.roots:
        return PolicyFloors()
    try:
        roots = (root, *state.roots[1:])
        newest = verified_roots(roots)
        found = {Root.type: RoleFloor(newest.version, trust.digest_of(roots[-1]))}
        for role, data in _given(state):
            metadata: Metadata[Targets] | Metadata[Snapshot] = (
                trust.parse(Snapshot, data) if role == Snapshot.type else trust.parse(Targets, data)
            )
            if role == KEYRING_ROLE:
                _delegator(state, roots).verify_delegate(role, metadata.signed_bytes, metadata.signatures)
            else:
                verified_by_any(roots, role, metadata)
            found[role] = RoleFloor(metadata.signed.version, trust.digest_of(data))
    except RepositoryError as error:
        raise UNVERIFIED(f"what the hub says is published does not verify: {error}") from error
    return PolicyFloors(found)


def _given(state: RepositoryState) -> Iterable[tuple[str, bytes]]:
    for role, data in (("targets", state.targets), (KEYRING_ROLE, state.keyring), ("snapshot", state.snapshot)):
        if data is not None:
            yield role, data


def _delegator(state: RepositoryState, roots: Sequence[bytes]) -> Targets:
    if state.targets is None:
        raise INCOMPLETE("there is a keyring, but no targets that delegate to it")
    metadata = trust.parse(Targets, state.targets)
    verified_by_any(roots, Targets.type, metadata)
    return metadata.signed


def verified_by_any(roots: Sequence[bytes], role: str, metadata: Metadata[Targets] | Metadata[Snapshot]) -> None:
    """Verify by the newest root, else by an older one of the verified chain; raises what TUF raises.

    After a rotation that replaces a role's keys the present set is still the old keys'. What is signed now is held to
    the newest root, by the publisher and by everybody else.
    """
    failure = UnsignedMetadataError(f"no root signs for {role}")
    for data in reversed(roots):
        try:
            trust.parse(Root, data).signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        except UnsignedMetadataError as error:
            failure = error
        else:
            return
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
