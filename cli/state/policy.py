"""What the local state remembers of policy, as the agreed package reads it: floors of roles, and keys gone bad."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.state.model import RoleFloor, State

if TYPE_CHECKING:
    from cellward.documents.keyring import Keyring
    from cellward.documents.revocations import Revocations
    from cellward.policy.floors import PolicyFloors


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


def with_locks(state: State, revocations: Revocations) -> State:
    """Return the state with the keys that these revocations lock, and no others: a newer signed set may lift a lock."""
    return state.model_copy(update={"locked_keys": tuple(sorted(_locked(revocations)))})


def narrowed(state: State, keyring: Keyring, revocations: Revocations) -> State:
    """Return the state with what was just signed and no hub has taken yet: keys only worsen, locks are only added."""
    added = tuple(sorted({*state.locked_keys, *_locked(revocations)}))
    keys = policy_floors(state).with_keys(keyring).keys
    return state.model_copy(update={"locked_keys": added, "keys": dict(sorted(keys.items()))})


def _locked(revocations: Revocations) -> set[str]:
    return {lock.subject for lock in revocations.locks if lock.kind == "key"}
