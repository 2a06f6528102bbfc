"""The keyring and the signed settings that this hub serves, read from the repository whenever it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuf.api.metadata import Targets

from cellward.documents import canonical
from cellward.documents.keyring import Keyring
from cellward.documents.revocations import Revocations
from cellward.policy import trust
from cellward.policy.bindings import parse_bindings
from cellward.policy.model import BINDINGS_TARGET, KEYRING_ROLE, KEYRING_TARGET, REVOCATIONS_TARGET
from hub.fleet.judge import Trusted
from hub.store.changes import POLICY
from hub.store.shared import Remembered

if TYPE_CHECKING:
    from hub.policy.service import TufRepository
    from hub.store.changes import ChangeBus


class ServedKeyring:
    """What documents are judged by: exactly what agents of this hub are given, verified when it was published."""

    def __init__(self, repository: TufRepository, changes: ChangeBus) -> None:
        self._repository = repository
        self._current = Remembered(self._read, changes, POLICY, bound=1)

    async def current(self) -> Trusted | None:
        """The keyring served now; None before the first publication."""
        return await self._current.get(None)

    async def _read(self, _: None) -> Trusted | None:
        places = ((KEYRING_ROLE, KEYRING_TARGET), (KEYRING_ROLE, REVOCATIONS_TARGET), ("targets", BINDINGS_TARGET))
        found = [await self._target(role, path) for role, path in places]
        (keyring, first), (revoked, third), (bindings, second) = found
        if keyring is None or revoked is None or bindings is None:
            return None
        signed = parse_bindings(bindings)
        return Trusted(
            Revocations.from_bytes(revoked).narrow(Keyring.from_json(canonical.decode(keyring))),
            dict(signed.thresholds),
            frozenset(signed.hub_attestation),
            f"{first} {second} {third}",
        )

    async def _target(self, role: str, path: str) -> tuple[bytes | None, str]:
        metadata = await self._repository.fetch(role, None)
        info = None if metadata is None else trust.parse(Targets, metadata).signed.targets.get(path)
        if info is None:
            return None, ""
        digest = f"sha256:{info.hashes.get('sha256', '')}"
        return await self._repository.fetch_target(digest), digest
