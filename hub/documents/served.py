"""The keyring and the signed settings that this hub serves, read from the repository whenever it changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tuf.api.metadata import Targets

from cellward.documents import canonical
from cellward.documents.keyring import Keyring
from cellward.documents.revocations import Revocations
from cellward.policy import trust
from cellward.policy.bindings import parse_bindings
from cellward.policy.model import BINDINGS_TARGET, KEYRING_ROLE, KEYRING_TARGET, REVOCATIONS_TARGET
from hub.documents.judge import Trusted
from hub.store.changes import POLICY
from hub.store.shared import Remembered

if TYPE_CHECKING:
    from hub.policy.service import TufRepository
    from hub.store.changes import ChangeBus
    from hub.store.interfaces import Tables

#: Roles whose metadata names what documents are judged by.
_ROLES = (KEYRING_ROLE, "targets")


class ServedKeyring:
    """What documents are judged by: exactly what agents of this hub are given, verified when it was published."""

    def __init__(self, repository: TufRepository, changes: ChangeBus) -> None:
        self._repository = repository
        self._current = Remembered(self._read, changes, POLICY, bound=1)

    async def current(self) -> Trusted | None:
        """The keyring served now; None before the first publication."""
        return await self._current.get(None)

    async def still(self, tables: Tables, trusted: Trusted) -> bool:
        """Whether a transaction sees what this was read from; if not it is read again at the next call."""
        held = [await tables.tuf.get_metadata(role) for role in _ROLES]
        if _digest(held) == trusted.served:
            return True
        self._current.forget()
        return False

    async def _read(self, _: None) -> Trusted | None:
        held = {role: await self._repository.fetch(role, None) for role in _ROLES}
        places = ((KEYRING_ROLE, KEYRING_TARGET), (KEYRING_ROLE, REVOCATIONS_TARGET), ("targets", BINDINGS_TARGET))
        found = [await self._target(held[role], path) for role, path in places]
        (keyring, first), (revoked, third), (bindings, second) = found
        if keyring is None or revoked is None or bindings is None:
            return None
        signed = parse_bindings(bindings)
        return Trusted(
            Revocations.from_bytes(revoked).narrow(Keyring.from_json(canonical.decode(keyring))),
            dict(signed.thresholds),
            frozenset(signed.hub_attestation),
            f"{first} {second} {third}",
            _digest([held[role] for role in _ROLES]),
        )

    async def _target(self, metadata: bytes | None, path: str) -> tuple[bytes | None, str]:
        info = None if metadata is None else trust.parse(Targets, metadata).signed.targets.get(path)
        if info is None:
            return None, ""
        digest = f"sha256:{info.hashes.get('sha256', '')}"
        return await self._repository.fetch_target(digest), digest


def _digest(metadata: Sequence[bytes | None]) -> str:
    """Name exact files: the digests of each."""
    return " ".join(trust.digest_of(data) if data is not None else "-" for data in metadata)
