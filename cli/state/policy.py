"""What the local state remembers of policy, as the agreed package reads it: floors of roles, keys gone bad, locks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cellward.identity.locks import parse_lock
from cli.state.model import RoleFloor, State

if TYPE_CHECKING:
    from cellward.documents.revocations import Revocations
    from cellward.policy.floors import PolicyFloors
    from cellward.policy.record import Record as PolicyRecord

#: When a lock was signed that is known by its subject alone.
_UNTOLD = datetime(1970, 1, 1, tzinfo=UTC)


def policy_floors(state: State) -> PolicyFloors:
    """Return the floors of policy."""
    from cellward.policy import floors

    roles = {role: floors.RoleFloor(floor.version, floor.digest) for role, floor in state.floors.items()}
    return floors.PolicyFloors(roles, dict(state.keys))


def with_policy(state: State, seen: PolicyFloors) -> State:
    """Return the state with floors raised and keys worsened by what was verified; nothing of it is ever lowered.

    Only the timestamp's floor is as given: ``trust.accept`` may have reset it, by a new root.
    """
    from tuf.api.metadata import Timestamp

    merged = policy_floors(state).merged(seen)
    roles = {**merged.roles, **{role: floor for role, floor in seen.roles.items() if role == Timestamp.type}}
    return state.model_copy(
        update={
            "floors": {
                role: RoleFloor(version=floor.version, digest=floor.digest) for role, floor in sorted(roles.items())
            },
            "keys": dict(sorted(merged.keys.items())),
        }
    )


def with_locks(state: State, revocations: Revocations, version: int) -> State:
    """Return the state after a set was accepted; ``version`` is that of its keyring role.

    Its locks are added. A lock that it does not have is dropped only where it was signed in that version or before: a
    hub that has not taken what was signed here since goes on to serve the set before, and that lifts nothing.
    """
    kept = {name: since for name, since in state.locks.items() if since > version}
    return _with_locks(state, kept, revocations, version)


def narrowed(state: State, record: PolicyRecord) -> State:
    """Return the state with what was just signed and no hub has taken yet: keys only worsen, locks are only added."""
    keys = policy_floors(state).with_keys(record.keyring).keys
    state = state.model_copy(update={"keys": dict(sorted(keys.items()))})
    return _with_locks(state, state.locks, record.revocations, version_of(record))


def with_record(state: State, record: PolicyRecord) -> State:
    """Return the state after this machine wrote the publishers' record."""
    return state.model_copy(update={"record": _digest(record)})


def wrote(state: State, record: PolicyRecord) -> bool:
    """Whether this is the record that this machine wrote last, in content: a repository may end lines its own way."""
    return state.record is not None and state.record == _digest(record)


def _digest(record: PolicyRecord) -> str:
    from cellward.policy.trust import digest_of

    return digest_of(record.to_bytes())


def revoked(state: State, revocations: Revocations) -> Revocations:
    """Return revocations of a hub's set with the locks that are known here besides, to verify by; not to be signed."""
    from cellward.documents.revocations import SignedLock

    served = {(lock.kind, lock.subject) for lock in revocations.locks}
    known = (parse_lock(name) for name in state.locks)
    added = (
        SignedLock(lock.kind, lock.subject, "signed, and known to this machine", _UNTOLD)
        for lock in known
        if (lock.kind, lock.subject) not in served
    )
    return replace(revocations, locks=(*revocations.locks, *added))


def version_of(record: PolicyRecord) -> int:
    """Return the version of the keyring role that a record's keyring and revocations were signed in."""
    from cellward.policy.model import KEYRING_ROLE

    signed = record.base(KEYRING_ROLE)
    return 1 if signed is None else signed.version


def _with_locks(state: State, kept: Mapping[str, int], revocations: Revocations, version: int) -> State:
    locks = dict(kept)
    for lock in revocations.locks:
        name = f"{lock.kind}/{lock.subject}"
        locks[name] = max(version, locks.get(name, 0))
    return state.model_copy(update={"locks": dict(sorted(locks.items()))})
