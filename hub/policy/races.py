"""Which publication lost a race: one made from what was in force when what is served now was made, and that came later.

Pure. What an author reads depends on it and nothing else does: the publication is refused either way.
"""

from __future__ import annotations

from collections.abc import Mapping

from tuf.api.metadata import Snapshot, Targets

from cellward.policy import trust
from cellward.policy.floors import RoleFloor
from cellward.policy.model import KEYRING_ROLE

#: Roles that say what they were made from.
_BASED = (Targets.type, KEYRING_ROLE)


def who_came_first(given: Mapping[str, bytes], served: Mapping[str, bytes], *, known: bool) -> str:
    """Say which publication came before the one that is refused; empty where it did not lose a race.

    Args:
        given: what was uploaded, the newest of targets, keyring and snapshot, by role.
        served: the same of what is served.
        known: whether the uploaded snapshot was served here before: it was replaced, and so came first itself.

    Raises policy/unverified for metadata that does not say what it was made from.
    """
    if known or any(role not in one for role in (*_BASED, Snapshot.type) for one in (given, served)):
        return ""
    lost: list[str] = []
    for role in _BASED:
        mine, theirs = _floor(role, given), _floor(role, served)
        if _equal(mine, theirs):
            continue
        if _equal(_base(role, given), _base(role, served)) or _equal(mine, _base(role, served)):
            lost.append(role)
        elif not _equal(_base(role, given), theirs):
            # More than one publication apart, or made from something that was never served.
            return ""
    # With the same content in both: two refreshes.
    return " and ".join(f"{role} version {_floor(role, served).version}" for role in (*lost, Snapshot.type))


def _floor(role: str, files: Mapping[str, bytes]) -> RoleFloor:
    return trust.floor_in(role, files[role])


def _base(role: str, files: Mapping[str, bytes]) -> RoleFloor | None:
    return trust.base_of(trust.parse(Targets, files[role]).signed)


def _equal(one: RoleFloor | None, other: RoleFloor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.version == other.version and not one.differs_from(other)
