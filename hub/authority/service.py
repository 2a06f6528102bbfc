"""Who gets a certificate: joins by token, renewals by the certificate held.

Order of a join: bounds, rate, realm, proof of possession, token, binding, issue, record. Nothing before the proof of
possession costs more than a comparison; nothing is bound before the token is spent. What is bound to a name is
decided under a lock of that name, so that two joins at once cannot both be the first.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from weakref import WeakValueDictionary

import structlog

from cellward.errors import CellwardError
from cellward.identity import keys as keymod
from cellward.identity.x509 import MAX_CSR, PeerIdentity, public_key_of_csr
from cellward.runtime.clock import Clock
from hub.authority.authority import Authority
from hub.authority.errors import (
    BAD_JOIN,
    BOUND_TO_ANOTHER,
    LOCKED,
    NOT_BOUND,
    REPLACED,
    SET_BACK,
    STALE_KEY,
    TOO_MANY_ATTEMPTS,
    UID_TAKEN,
    WRONG_REALM,
)
from hub.authority.interfaces import AuditSink, BoundCluster, Clusters
from hub.authority.limits import JoinLimits, Limiter, Rate
from hub.authority.model import AgentCertificate, Attempt, Joined
from hub.authority.tokens import Grant, JoinTokens, check_token

_UID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_REALM = re.compile(r"sha256:[0-9a-f]{64}\Z")
#: Renewals of one cluster: a burst for restarts, then one in ten seconds.
RENEWALS = Rate(10, 0.1)
#: Length of an Ed25519 SubjectPublicKeyInfo, DER.
#: Generations left free when somebody takes a name over: a store that was restored may have forgotten renewals, each at
#: least a quarter of an hour apart, and none of them may come out above the new floor.
_TAKE_OVER = 4096
_STATEMENT_SPKI = 44
_log = structlog.get_logger()


class IdentityService:
    """Joins and renewals."""

    def __init__(
        self,
        *,
        authority: Authority,
        tokens: JoinTokens,
        clusters: Clusters,
        audit: AuditSink,
        clock: Clock,
        limits: JoinLimits | None = None,
        renewals: Rate = RENEWALS,
    ) -> None:
        self._authority = authority
        self._tokens = tokens
        self._clusters = clusters
        self._audit = audit
        self._limits = limits or JoinLimits(clock)
        self._renewals = Limiter(renewals, clock)
        self._names: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def authority(self) -> Authority:
        """The authority that issues."""
        return self._authority

    async def join(self, attempt: Attempt) -> Joined:
        """Turn a token into a first certificate (V6).

        Raises authority/* and identity/* errors, and what the store raises for a token; every refusal is recorded
        within the bound that keeps strangers from filling the log.
        """
        self._limits.admit(attempt.address)
        try:
            return await self._join(attempt)
        except CellwardError as error:
            suppressed = self._limits.failed(attempt.address)
            _log.warning("join-refused", code=error.code, address=attempt.address)
            if suppressed is not None:
                await self._audit.record(
                    "cluster.join",
                    error.details.get("cluster", ""),
                    "deny",
                    actor=f"address:{attempt.address}",
                    code=error.code,
                    reason=error.message,
                    details={"suppressed": str(suppressed)},
                )
            raise

    async def _join(self, attempt: Attempt) -> Joined:
        check_bounds(attempt)
        if attempt.realm != self._authority.realm():
            raise WRONG_REALM(f"the agent belongs to {attempt.realm}, this hub to another")
        spki = keymod.spki_of(public_key_of_csr(attempt.csr_der))
        keymod.load_signing_spki(attempt.statement_spki_der)
        grant = await self._tokens.spend(attempt.token, keymod.spki_digest(spki))
        async with self._lock_of(grant.cluster):
            certificate = await self._bind(attempt, grant, spki)
        return Joined(grant.cluster, self._authority.trust_domain(), certificate)

    async def _bind(self, attempt: Attempt, grant: Grant, spki: bytes) -> AgentCertificate:
        bound = await self._clusters.get(grant.cluster)
        if bound is None:
            raise NOT_BOUND(f"cluster {grant.cluster} does not exist", cluster=grant.cluster)
        _check_binding(bound, attempt, replace=grant.replace)
        owner = await self._clusters.name_of_uid(attempt.cluster_uid)
        if owner not in (None, grant.cluster):
            raise UID_TAKEN(f"uid {attempt.cluster_uid} is bound to another name", cluster=grant.cluster)
        digest = keymod.spki_digest(spki)
        again = bound.spki_sha256 == digest and bound.uid == attempt.cluster_uid
        generation = max(1, bound.generation) if again else _after(bound.generation)
        certificate = self._authority.issue_agent(grant.cluster, spki, generation)
        await self._clusters.bind(
            grant.cluster,
            attempt.cluster_uid,
            digest,
            attempt.statement_spki_der,
            generation,
            certificate.serial,
            bound.previous_spki_sha256 if again else "",
            # Whoever held the name before is out, the first of all joins aside.
            generation if bound.generation and not again else 0,
            # The lock is this process's; another one may have bound the name meanwhile, and then this is asked again.
            bound.serial,
        )
        details = {
            "uid": attempt.cluster_uid,
            "replaced": str(bool(bound.uid) and bound.uid != attempt.cluster_uid).lower(),
        }
        await self._record("cluster.join", grant.cluster, f"address:{attempt.address}", certificate, digest, details)
        return certificate

    async def renew(self, peer: PeerIdentity, csr_der: bytes) -> AgentCertificate:
        """Certificate for a new key and the name the peer certificate proves (V3, V5): generation + 1.

        Only the newest key bound to the name renews; until that one was used, the one before may ask again: the answer
        may have been lost (V7). Raises authority/locked, authority/not-bound, authority/replaced, authority/stale-key,
        authority/too-many-attempts, identity/bad-request or identity/bad-key.
        """
        if not self._renewals.take(peer.name):
            raise TOO_MANY_ATTEMPTS(f"cluster {peer.name} renews too often", cluster=peer.name)
        spki = keymod.spki_of(public_key_of_csr(csr_der))
        async with self._lock_of(peer.name):
            bound = await self._clusters.get(peer.name)
            if bound is None or not bound.uid:
                raise NOT_BOUND(f"nobody joined as {peer.name}", cluster=peer.name)
            if bound.locked:
                raise LOCKED(f"cluster {peer.name} is locked", cluster=peer.name)
            await self._check_renewal(peer, bound)
            digest = keymod.spki_digest(spki)
            # A generation that was never used is given again, to the same new key or to another one: whoever asks holds
            # the last that was. One that the store does not know was used before it was set back.
            known = peer.generation <= bound.generation
            again = known and (peer.spki_sha256 != bound.spki_sha256 or digest == bound.spki_sha256)
            generation = bound.generation if again else max(bound.generation, peer.generation) + 1
            certificate = self._authority.issue_agent(peer.name, spki, generation)
            await self._clusters.bind(
                peer.name,
                bound.uid,
                digest,
                bound.statement_spki,
                generation,
                certificate.serial,
                bound.previous_spki_sha256 if again else peer.spki_sha256,
                expected_serial=bound.serial,
            )
            await self._record("certificate.renew", peer.name, str(peer.id), certificate, digest, {})
        return certificate

    async def _check_renewal(self, peer: PeerIdentity, bound: BoundCluster) -> None:
        """Refuse a replaced installation, and a key that a newer one in use has followed: a copy may hold it (V7)."""
        if peer.generation < bound.generation_floor:
            raise REPLACED(f"generation {peer.generation} of {peer.name} was replaced", cluster=peer.name)
        if peer.spki_sha256 in {bound.spki_sha256, bound.previous_spki_sha256}:
            return
        if peer.generation > bound.generation:
            # Only our own key can have certified it, and what is certified is durable before the answer leaves: the
            # store was set back. Whoever was replaced meanwhile is below the floor, which leaves room for that.
            reason = f"generation {peer.generation} was certified, the store knows {bound.generation}"
            await self._finding(peer, SET_BACK.code, reason)
            return
        reason = f"generation {peer.generation} asks to be renewed while generation {bound.generation} is in use"
        await self._finding(peer, STALE_KEY.code, reason)
        raise STALE_KEY(f"generation {bound.generation} of {peer.name} is in use", cluster=peer.name)

    async def _finding(self, peer: PeerIdentity, code: str, reason: str) -> None:
        await self._audit.record(
            "certificate.renew",
            f"Cluster//{peer.name}",
            "finding",
            actor=str(peer.id),
            code=code,
            reason=reason,
            details={"generation": str(peer.generation), "spkiSha256": peer.spki_sha256},
        )

    async def _record(
        self, action: str, cluster: str, actor: str, issued: AgentCertificate, spki_sha256: str, more: Mapping[str, str]
    ) -> None:
        details = {"serial": issued.serial, "generation": str(issued.generation), "spkiSha256": spki_sha256, **more}
        await self._audit.record(action, f"Cluster//{cluster}", "allow", actor=actor, details=details)

    def _lock_of(self, cluster: str) -> asyncio.Lock:
        lock = self._names.get(cluster)
        if lock is None:
            lock = self._names[cluster] = asyncio.Lock()
        return lock


def _after(generation: int) -> int:
    """Generation of whoever takes a name over: beyond all that one before it can hold, after a restore as well."""
    return generation + _TAKE_OVER if generation else 1


def check_bounds(attempt: Attempt) -> None:
    """Refuse what cannot be a join request before anything is computed for it.

    Raises authority/bad-token, authority/bad-join.
    """
    check_token(attempt.token)
    if not 0 < len(attempt.csr_der) <= MAX_CSR:
        raise BAD_JOIN(f"the request has {len(attempt.csr_der)} bytes, between 1 and {MAX_CSR} are taken")
    if len(attempt.statement_spki_der) != _STATEMENT_SPKI:
        raise BAD_JOIN("the statement key is not an Ed25519 public key")
    if not _UID.match(attempt.cluster_uid):
        raise BAD_JOIN("the cluster uid is not an RFC 4122 identifier in lower case")
    if not _REALM.match(attempt.realm):
        raise BAD_JOIN("the realm is not sha256: and 64 hex digits")


def _check_binding(bound: BoundCluster, attempt: Attempt, *, replace: bool) -> None:
    if bound.locked:
        raise LOCKED(f"cluster {bound.name} is locked", cluster=bound.name)
    if not bound.uid or replace:
        return
    if bound.uid != attempt.cluster_uid:
        raise BOUND_TO_ANOTHER(f"cluster {bound.name} is bound to another installation", cluster=bound.name)
    if bound.statement_spki != attempt.statement_spki_der:
        raise BOUND_TO_ANOTHER(f"cluster {bound.name} is bound to another statement key", cluster=bound.name)
