"""Rules of acceptance over TUF metadata that python-tuf has verified: realm, floors, lifetimes. Pure.

Seam: bodies follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RoleFloor:
    """Highest version of a role ever accepted, and the digest of its bytes."""

    version: int
    digest: str


@dataclass(frozen=True, slots=True)
class PolicyFloors:
    """Floors by role: root, timestamp, snapshot, targets and delegated roles; only the timestamp's may be reset."""

    roles: Mapping[str, RoleFloor] = field(default_factory=dict)


def realm_of(root_v1: bytes) -> str:
    """Return the realm of a root of version 1: sha256 of its signed part."""
    raise NotImplementedError
