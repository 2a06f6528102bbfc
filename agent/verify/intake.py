"""From a desired item to verified documents: fetched by digest, verified, matched against this cluster's own facts.

Nothing the hub says is believed: the item only names digests, and every document is checked to be about this cell, this
environment, this cluster and this sequence. Order of the checks: signatures, subject, placement, floor, release.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

import structlog

from agent.spool.interfaces import StateDb
from agent.verify.errors import (
    DIGEST_MISMATCH,
    DOCUMENT_MISSING,
    ENVIRONMENT_NOT_HERE,
    ITEM_MISMATCH,
    POLICY_CHANGED,
    PROJECT_NOT_ALLOWED,
    SELECTOR_DOES_NOT_MATCH,
)
from agent.verify.interfaces import DocumentSource, PolicyView
from agent.verify.refusals import is_passing
from cellward.documents import dsse
from cellward.documents.facts import ClusterFacts
from cellward.documents.floors import check_first_contact, check_floor
from cellward.documents.keyring import Verified, Verifier
from cellward.documents.model import PREVIOUS, Approval, Deployment, Document, Release, Tombstone, payload_type_of
from cellward.errors import CellwardError, Unavailable
from cellward.policy.model import VerifiedSet
from cellward.runtime.clock import Clock
from cellward.wire.codec import DesiredItem

_log = structlog.get_logger()

#: Largest envelope that is fetched, bytes: a payload of 1 MiB in base64 and its signatures.
MAX_ENVELOPE: Final = 2 * 1024 * 1024

D = TypeVar("D", bound=Document)


@dataclass(frozen=True, slots=True)
class VerifiedCell:
    """A Deployment that may run here, with its release; approvals are those that hold.

    Attributes:
        deployment: the placement.
        release: what is to run: the Deployment's own release, or its fallback's turn.
        approvals: those that hold.
        policy: what all of it was verified with.
        envelopes: the verified bytes by digest, to be kept once the Deployment is accepted: also those of the
            fallback and of the approvals, because the rollback is needed when nothing else can be had.
        fallback: the release to go back to, None when there is none to be had.
        replace: whether a signed release allows to recreate what cannot be changed.
    """

    deployment: Verified[Deployment]
    release: Verified[Release]
    approvals: tuple[Verified[Approval], ...]
    policy: VerifiedSet
    envelopes: Mapping[str, bytes]
    fallback: Verified[Release] | None = None
    replace: bool = False


@dataclass(frozen=True, slots=True)
class VerifiedEnd:
    """A Tombstone that holds here, the approvals that hold, and their verified bytes by digest."""

    tombstone: Verified[Tombstone]
    approvals: tuple[Verified[Approval], ...]
    policy: VerifiedSet
    envelopes: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class _Basis:
    """What one verification goes by.

    ``accepted`` are the digests of what was accepted before; ``begun`` when that is this very document, with all it
    needs: then the hub is asked for nothing, and can hold up neither its end nor the rollback. ``settled`` is the
    release that last became healthy here, empty for none.
    """

    policy: VerifiedSet
    verifier: Verifier
    now: datetime
    accepted: frozenset[str]
    begun: bool
    settled: str = ""


class Intake:
    """Fetches and verifies; writes nothing.

    What was accepted is read from what is kept, so that it is finished without a hub. Anything else is asked of the
    hub first: signatures may have been added to an envelope since, and the digest says nothing about them.
    """

    def __init__(
        self,
        *,
        policy: PolicyView,
        source: DocumentSource,
        state: StateDb,
        clock: Clock,
        facts: Callable[[], ClusterFacts],
        realm: str,
    ) -> None:
        self._policy = policy
        self._source = source
        self._state = state
        self._clock = clock
        self._facts = facts
        self._realm = realm

    async def verify(self, item: DesiredItem, running: str = "", settled: str = "") -> VerifiedCell | VerifiedEnd:
        """Return the verified documents of an item.

        ``running`` is the release that was accepted before and runs, ``settled`` the one that last became healthy.

        Raises policy/no-verified-set, policy/engine-not-startable, document/*, cell/*; cell/document-missing and
        unavailable sources are worth another try.
        """
        now = await self._state.time_floor.advance(self._clock.now())
        basis = await self._basis(item, now, running, settled)
        accepted = item.deployment_digest in basis.accepted
        data = await self._fetch(item.deployment_digest, kept=accepted)
        if _type_of(data) == payload_type_of(Tombstone.kind):
            end = basis.verifier.verify(data, Tombstone, now=now, accepted=accepted)
            await self._check(item, end, basis)
            approvals, envelopes = await self._approvals(item, end, basis)
            return VerifiedEnd(end, approvals, basis.policy, {end.digest: data, **envelopes})
        deployment = basis.verifier.verify(data, Deployment, now=now, accepted=accepted)
        await self._check(item, deployment, basis)
        if not deployment.document.cluster_selector.matches(self._facts()):
            raise SELECTOR_DOES_NOT_MATCH(
                f"the clusterSelector of {item.deployment_digest} does not match the facts of {self._facts().name}",
                object=item.deployment_digest,
            )
        digest = deployment.document.release_digest
        release, kept = await self._release(deployment.document, digest, basis, accepted=accepted)
        fallback, spare = await self._spare(item, deployment, basis)
        approvals, others = await self._approvals(item, deployment, basis)
        envelopes = {deployment.digest: data, release.digest: kept, **spare, **others}
        return VerifiedCell(
            deployment, release, approvals, basis.policy, envelopes, fallback, replace=release.document.replace
        )

    def check_current(self, policy: VerifiedSet) -> None:
        """Raise apply/policy-changed unless what was verified and decided on is still the policy of this cluster."""
        current = self._policy.current
        if current is None or _content(current) != _content(policy):
            raise POLICY_CHANGED("policy changed while the release was being decided")

    async def fallback(self, item: DesiredItem) -> VerifiedCell | None:
        """Return the accepted Deployment with its fallback release in place of its own; None when it has none.

        Where it goes was decided when it was accepted, not by what a hub has shown since. All of it was verified and
        kept then; a full disk does not stand in the way.
        """
        basis = await self._basis(item, await self._now())
        data = await self._fetch(item.deployment_digest, kept=True)
        deployment = basis.verifier.verify(data, Deployment, now=basis.now, accepted=True)
        if deployment.digest != item.deployment_digest:
            raise DIGEST_MISMATCH(
                f"asked for {item.deployment_digest}, got {deployment.digest}", object=item.deployment_digest
            )
        digest = await self._way_back(item, deployment, basis)
        if not digest:
            return None
        known = digest in basis.accepted
        release, kept = await self._release(deployment.document, digest, basis, accepted=known)
        approvals, envelopes = await self._approvals(item, deployment, basis)
        return VerifiedCell(
            deployment, release, approvals, basis.policy, {release.digest: kept, **envelopes},
            replace=release.document.replace or await self._allowed_replace(deployment.document, basis),
        )  # fmt: skip

    async def _basis(self, item: DesiredItem, now: datetime, running: str = "", settled: str = "") -> _Basis:
        """Take the policy of now, and what of the item was accepted before."""
        current = self._policy.current
        if current is None:
            raise self._policy.missing
        accepted, begun = {running, settled} - {""}, False
        floor = await self._state.floors.get(*item.key)
        if floor is not None and floor.digest == item.deployment_digest:
            accepted.add(floor.digest)
            held = await self._state.accepted.get(*item.key)
            if held is not None and held.deployment_digest == floor.digest:
                accepted.update(held.evidence)
                begun = True
        return _Basis(current, self._verifier(current), now, frozenset(accepted), begun, settled)

    async def _now(self) -> datetime:
        """Return the time that may be relied on, also when it cannot be written down."""
        try:
            return await self._state.time_floor.advance(self._clock.now())
        except CellwardError as error:
            if not error.code.startswith("spool/"):
                raise
            return self._clock.now()

    async def _way_back(self, item: DesiredItem, deployment: Verified[Deployment], basis: _Basis) -> str:
        """Return the digest of the release that this Deployment returns to, empty for none.

        What stands for ``previous`` is decided once, at acceptance, by what this agent knows itself: whoever shows
        documents later, or hides some, chooses nothing.
        """
        named = deployment.document.fallback
        if named != PREVIOUS:
            return named or ""
        floor = await self._state.floors.get(*item.key)
        if floor is not None and floor.digest == deployment.digest:
            return await self._state.floors.fallback(*item.key)
        return "" if basis.settled == deployment.document.release_digest else basis.settled

    async def _spare(
        self, item: DesiredItem, deployment: Verified[Deployment], basis: _Basis
    ) -> tuple[Verified[Release] | None, dict[str, bytes]]:
        """Return the release to go back to.

        A new Deployment that names a fallback which is not to be had or does not hold is not accepted: afterwards it
        would be too late. One that was accepted is finished all the same, and one whose ``previous`` does not hold any
        more goes nowhere: it may be the very one that replaces what a compromised key signed.
        """
        digest = await self._way_back(item, deployment, basis)
        if not digest or (basis.begun and digest not in basis.accepted):
            return None, {}
        try:
            release, data = await self._release(deployment.document, digest, basis, accepted=digest in basis.accepted)
        except CellwardError as error:
            previous = deployment.document.fallback == PREVIOUS and not is_passing(error)
            if deployment.digest not in basis.accepted and not previous:
                raise
            _log.warning("fallback-does-not-hold", digest=digest, code=error.code, reason=error.message)
            return None, {}
        return release, {release.digest: data}

    async def _allowed_replace(self, deployment: Deployment, basis: _Basis) -> bool:
        """Whether the release that failed may replace objects: what it replaced is replaced back."""
        try:
            failed, _ = await self._release(deployment, deployment.release_digest, basis, accepted=True)
        except CellwardError as error:
            _log.warning("failed-release-not-read", code=error.code, reason=error.message)
            return False
        return failed.document.replace

    def _verifier(self, current: VerifiedSet) -> Verifier:
        signed = current.binding_set
        admitted = () if self._facts().production else signed.hub_attestation
        return Verifier(current.keyring, self._realm, signed.thresholds, hub_environments=admitted)

    async def _fetch(self, digest: str, *, kept: bool) -> bytes:
        held = await self._state.blobs.get(digest)
        if held is not None and kept:
            return held
        try:
            data = await self._source.fetch_digest(digest, MAX_ENVELOPE)
        except Unavailable:
            if held is None:
                raise
            data = None
        data = held if data is None else data
        if data is None:
            raise DOCUMENT_MISSING(f"the hub does not have {digest}", object=digest)
        return data

    async def _check(self, item: DesiredItem, found: Verified[Deployment] | Verified[Tombstone], basis: _Basis) -> None:
        """Check subject, place and floor."""
        document, facts = found.document, self._facts()
        if found.digest != item.deployment_digest:
            raise DIGEST_MISMATCH(f"asked for {item.deployment_digest}, got {found.digest}", object=found.digest)
        same = (document.project, document.cell) == (item.project, item.cell)
        if not same or item.environment not in document.environments:
            raise ITEM_MISMATCH(
                f"{found.digest} is about {document.project}/{document.cell} in {', '.join(document.environments)}, "
                f"the hub says {'/'.join(item.key)}",
                object=found.digest,
            )
        if item.environment not in facts.environments:
            hosted = ", ".join(facts.environments) or "none"
            raise ENVIRONMENT_NOT_HERE(
                f"{facts.name} hosts {hosted}, not {item.environment}", object="/".join(item.key)
            )
        if not facts.allows_project(item.project):
            raise PROJECT_NOT_ALLOWED(f"{facts.name} does not run project {item.project}", object="/".join(item.key))
        floor = await self._state.floors.get(*item.key)
        check_floor(floor, document.sequence, found.digest, document.issued_at)
        if floor is None:
            check_first_contact(document.issued_at, basis.policy.revocations.minimum(item.project))

    async def _release(
        self, deployment: Deployment, digest: str, basis: _Basis, *, accepted: bool
    ) -> tuple[Verified[Release], bytes]:
        data = await self._fetch(digest, kept=accepted)
        release = basis.verifier.verify(data, Release, now=basis.now, accepted=accepted, named=True)
        if release.digest != digest:
            raise DIGEST_MISMATCH(f"asked for {digest}, got {release.digest}", object=digest)
        document = release.document
        if (document.project, document.cell) != (deployment.project, deployment.cell):
            raise ITEM_MISMATCH(
                f"the release is of {document.project}/{document.cell}, the Deployment of "
                f"{deployment.project}/{deployment.cell}",
                object=digest,
            )
        return release, data

    async def _approvals(
        self, item: DesiredItem, subject: Verified[Deployment] | Verified[Tombstone], basis: _Basis
    ) -> tuple[tuple[Verified[Approval], ...], dict[str, bytes]]:
        """Return the approvals among the evidence that hold, and their bytes; one that does not hold counts for none.

        What was accepted with the document still counts after it expired: half a release is finished, and undone, by
        what it was begun with.
        """
        named = _named_by(subject)
        found: list[Verified[Approval]] = []
        envelopes: dict[str, bytes] = {}
        for digest in sorted(basis.accepted) if basis.begun else dict.fromkeys(item.evidence):
            if digest in named:
                continue
            try:
                data = await self._fetch(digest, kept=basis.begun)
            except CellwardError as error:
                if not basis.begun:
                    raise
                _log.warning("approval-not-kept", digest=digest, code=error.code)
                continue
            approval = self._approval(item, subject.digest, data, basis)
            if approval is not None and approval.digest == digest:
                found.append(approval)
                envelopes[digest] = data
        return tuple(found), envelopes

    def _approval(
        self, item: DesiredItem, deployment_digest: str, data: bytes, basis: _Basis
    ) -> Verified[Approval] | None:
        try:
            if _type_of(data) != payload_type_of(Approval.kind):
                return None
            approval = basis.verifier.verify(data, Approval, now=basis.now, accepted=basis.begun)
        except CellwardError as error:
            _log.info("approval-does-not-hold", code=error.code, reason=error.message)
            return None
        document = approval.document
        about = (document.project, document.deployment_digest, document.environment)
        return approval if about == (item.project, deployment_digest, item.environment) else None


def _named_by(subject: Verified[Deployment] | Verified[Tombstone]) -> frozenset[str | None]:
    """Return the digests of documents that are no approvals of it: its own, and those it names."""
    document = subject.document
    if isinstance(document, Tombstone):
        return frozenset({subject.digest})
    return frozenset({subject.digest, document.release_digest, document.fallback})


def _content(policy: VerifiedSet) -> tuple[object, ...]:
    """Return what decides of a set; a new timestamp or snapshot alone changes nothing of it."""
    return policy.keyring, policy.binding_set, policy.digests


def _type_of(data: bytes) -> str:
    return dsse.parse_envelope(data).payload_type
