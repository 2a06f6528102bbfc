"""The keyring that documents of a hub are verified by here: from the policy set, floored and unexpired.

Whoever fetches it, verifies it from the first root on, which is this side's own, and holds it to what this machine
remembers: versions, and keys that went bad. So a hub can show neither an older keyring nor one that forgets a
revocation; and no file that somebody once wrote counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cli.home import read_file

if TYPE_CHECKING:
    from datetime import datetime

    from cellward.documents.keyring import Verifier
    from cellward.policy.model import VerifiedSet
    from cellward.policy.trust import ParsedSet
    from cli.door.client import Client
    from cli.home import Home, Trust


def trusted_policy(client: Client, home: Home, trust: Trust, now: datetime) -> VerifiedSet:
    """Return the policy set in force, without its bundles; raises policy/*. What was accepted is remembered.

    Its revocations have the signed locks that this machine knows besides, because it signed them or saw them and no
    newer set lifted them; keys that any of these locks are compromised in its keyring.
    """
    from cellward.policy import client as policy
    from cellward.policy import trust as tuf
    from cli.state.policy import policy_floors, revoked, with_locks, with_policy

    shown = shown_policy(client, trust)
    parsed, files = shown.parsed, shown.files
    verified = policy.assemble(parsed, files, realm=trust.realm, wanted=policy.select_none)
    with home.state(trust).change() as change:
        floors = tuf.accept(parsed, policy_floors(change.state), now)
        state = with_policy(change.state, floors.with_keys(policy.keyring_of(parsed, files)))
        state = with_locks(state, verified.revocations, verified.keyring_version)
        change.state = state
    narrower = revoked(state, verified.revocations)
    return replace(verified, revocations=narrower, keyring=narrower.narrow(verified.keyring))


@dataclass(frozen=True, slots=True)
class ShownPolicy:
    """A set whose signatures verify from the first root on; neither floors nor expiry were asked."""

    parsed: ParsedSet
    files: Mapping[str, bytes]


def shown_policy(client: Client, trust: Trust) -> ShownPolicy:
    """Return what the hub shows, as far as its signatures go: to look at, not to verify by. Raises policy/*."""
    from cellward.api import schemas
    from cellward.policy import trust as tuf
    from cellward.policy.errors import NOTHING_PUBLISHED

    served = client.get("/policy/metadata", schemas.PolicyMetadata)
    parts = (served.timestamp, served.snapshot, served.targets, served.keyring)
    given = [part for part in parts if part is not None]
    if len(given) < len(parts):
        raise NOTHING_PUBLISHED("the hub shows no whole policy set")
    roots = (read_file(trust.root_file), *served.roots[1:])
    parsed = tuf.verify_set(tuf.MetadataSet(roots, *given))
    files = {f"targets/{tuf.digest_of(data).removeprefix('sha256:')}": data for data in served.contents}
    return ShownPolicy(parsed, files)


def verifier(client: Client, home: Home, trust: Trust, now: datetime) -> Verifier:
    """Return what verifies documents of this realm by that keyring."""
    from cellward.documents.keyring import Verifier

    return Verifier(trusted_policy(client, home, trust, now).keyring, trust.realm)
