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

from agent.applier.errors import (
    DIGEST_MISMATCH,
    DOCUMENT_MISSING,
    ENVIRONMENT_NOT_HERE,
    ITEM_MISMATCH,
    POLICY_CHANGED,
    PROJECT_NOT_ALLOWED,
    SELECTOR_DOES_NOT_MATCH,
)
from agent.applier.interfaces import DocumentSource, PolicyView
from agent.spool.interfaces import StateDb
from cellward.documents import dsse
from cellward.documents.facts import ClusterFacts
from cellward.documents.floors import check_floor
from cellward.documents.keyring import Verified, Verifier
from cellward.documents.model import Approval, Deployment, Document, Release, Tombstone, payload_type_of
from cellward.errors import CellwardError, Unavailable
from cellward.policy.errors import NO_VERIFIED_SET
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

    ``envelopes`` are the verified bytes by digest, to be kept once the Deployment is accepted.
    """

    deployment: Verified[Deployment]
    release: Verified[Release]
    approvals: tuple[Verified[Approval], ...]
    policy: VerifiedSet
    envelopes: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class VerifiedEnd:
    """A Tombstone that holds here, and its verified bytes."""

    tombstone: Verified[Tombstone]
    envelope: bytes


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

    async def verify(self, item: DesiredItem) -> VerifiedCell | VerifiedEnd:
        """Return the verified documents of an item.

        Raises policy/no-verified-set, document/*, cell/*; cell/document-missing and unavailable sources are worth
        another try.
        """
        current = self._policy.current
        if current is None:
            raise NO_VERIFIED_SET("no policy was verified on this cluster yet")
        now = await self._state.time_floor.advance(self._clock.now())
        floor = await self._state.floors.get(*item.key)
        accepted = floor is not None and floor.digest == item.deployment_digest
        data = await self._fetch(item.deployment_digest, kept=accepted)
        verifier = self._verifier(current)
        if _type_of(data) == payload_type_of(Tombstone.kind):
            end = verifier.verify(data, Tombstone, now=now, accepted=accepted)
            await self._check(item, end)
            return VerifiedEnd(end, data)
        deployment = verifier.verify(data, Deployment, now=now, accepted=accepted)
        await self._check(item, deployment)
        if not deployment.document.cluster_selector.matches(self._facts()):
            raise SELECTOR_DOES_NOT_MATCH(
                f"the clusterSelector of {item.deployment_digest} does not match the facts of {self._facts().name}",
                object=item.deployment_digest,
            )
        release, release_data = await self._release(
            deployment.document, deployment.document.release_digest, now, accepted=accepted
        )
        approvals = await self._approvals(item, deployment, verifier, now)
        envelopes = {deployment.digest: data, release.digest: release_data}
        return VerifiedCell(deployment, release, approvals, current, envelopes)

    def check_current(self, policy: VerifiedSet) -> None:
        """Raise apply/policy-changed unless what was verified and decided on is still the policy of this cluster."""
        current = self._policy.current
        if current is None or _content(current) != _content(policy):
            raise POLICY_CHANGED("policy changed while the release was being decided")

    async def fallback(self, deployment_digest: str) -> VerifiedCell | None:
        """Return the accepted Deployment with its fallback release in place of its own; None when it names none."""
        current = self._policy.current
        if current is None:
            raise NO_VERIFIED_SET("no policy was verified on this cluster yet")
        now = await self._state.time_floor.advance(self._clock.now())
        data = await self._fetch(deployment_digest, kept=True)
        deployment = self._verifier(current).verify(data, Deployment, now=now, accepted=True)
        if deployment.digest != deployment_digest:
            raise DIGEST_MISMATCH(f"asked for {deployment_digest}, got {deployment.digest}", object=deployment_digest)
        if deployment.document.fallback is None:
            return None
        release, kept = await self._release(deployment.document, deployment.document.fallback, now, accepted=False)
        return VerifiedCell(deployment, release, (), current, {release.digest: kept})

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

    async def _check(self, item: DesiredItem, found: Verified[Deployment] | Verified[Tombstone]) -> None:
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
        check_floor(await self._state.floors.get(*item.key), document.sequence, found.digest)

    async def _release(
        self, deployment: Deployment, digest: str, now: datetime, *, accepted: bool
    ) -> tuple[Verified[Release], bytes]:
        current = self._policy.current
        if current is None:
            raise NO_VERIFIED_SET("the verified policy is gone")
        data = await self._fetch(digest, kept=accepted)
        release = self._verifier(current).verify(data, Release, now=now, accepted=accepted)
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
        self, item: DesiredItem, deployment: Verified[Deployment], verifier: Verifier, now: datetime
    ) -> tuple[Verified[Approval], ...]:
        """Return the approvals among the evidence that hold; one that does not hold is as good as none."""
        known = {deployment.document.release_digest, deployment.document.fallback, deployment.digest}
        found: list[Verified[Approval]] = []
        for digest in item.evidence:
            if digest in known:
                continue
            data = await self._fetch(digest, kept=False)
            if _type_of(data) != payload_type_of(Approval.kind):
                continue
            try:
                approval = verifier.verify(data, Approval, now=now)
            except CellwardError as error:
                _log.info("approval-does-not-hold", digest=digest, code=error.code, reason=error.message)
                continue
            document = approval.document
            subject = (document.project, document.deployment_digest, document.environment)
            if approval.digest == digest and subject == (item.project, deployment.digest, item.environment):
                found.append(approval)
        return tuple(found)


def _content(policy: VerifiedSet) -> tuple[object, ...]:
    """Return what decides of a set; a new timestamp or snapshot alone changes nothing of it."""
    return policy.keyring, policy.binding_set, policy.digests


def _type_of(data: bytes) -> str:
    return dsse.parse_envelope(data).payload_type
