"""Who gets a certificate: joins by token, renewals by the certificate held, recoveries by the key that is bound.

Order of a join: bounds, rate, realm, proof of possession, token, binding, issue, record. Nothing before the proof of
possession costs more than a comparison; nothing is bound before the token is spent. What is bound to a name is
decided under a lock of that name, so that two joins at once cannot both be the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping
from datetime import timedelta
from weakref import WeakValueDictionary

import structlog

from cellward.errors import CellwardError
from cellward.identity import keys as keymod
from cellward.identity.recovery import MAX_SIGNATURE, is_recovery_signed
from cellward.identity.x509 import MAX_CSR, PeerIdentity, public_key_of_csr
from cellward.runtime.clock import Clock
from hub.authority.authority import Authority
from hub.authority.copies import Copies
from hub.authority.errors import (
    BAD_JOIN,
    BAD_RECOVERY,
    BOUND_TO_ANOTHER,
    LOCKED,
    NOT_BOUND,
    NOT_RECOVERED,
    OVERTAKEN,
    REPLACED,
    SET_BACK,
    STALE_KEY,
    TOO_MANY_ATTEMPTS,
    UID_TAKEN,
    WRONG_REALM,
)
from hub.authority.interfaces import AuditSink, BoundCluster, Clusters, Locks
from hub.authority.limits import JoinLimits, Limiter, Rate
from hub.authority.lineage import TAKE_OVER, Place, is_handover, next_step, place_of
from hub.authority.model import AgentCertificate, Attempt, Joined, RecoveryAttempt
from hub.authority.nonces import Nonces
from hub.authority.tokens import Grant, JoinTokens, check_token, hash_token
from hub.store.shared import Together

_UID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_REALM = re.compile(r"sha256:[0-9a-f]{64}\Z")
#: Renewals of one cluster: a burst for restarts, then one in ten seconds.
RENEWALS = Rate(10, 0.1)
#: Length of an Ed25519 SubjectPublicKeyInfo, DER.
_STATEMENT_SPKI = 44
#: How long after its last certificate an agent recovers: longer than any outage, shorter than disks lie in drawers.
RECOVER_WITHIN = timedelta(days=90)
_log = structlog.get_logger()


class IdentityService:
    """Joins, renewals and recoveries."""

    def __init__(  # noqa: PLR0913  what it needs of others, each by name
        self,
        *,
        authority: Authority,
        tokens: JoinTokens,
        clusters: Clusters,
        locks: Locks,
        copies: Copies,
        audit: AuditSink,
        clock: Clock,
        limits: JoinLimits | None = None,
        renewals: Rate = RENEWALS,
    ) -> None:
        self._authority = authority
        self._tokens = tokens
        self._clusters = clusters
        self._locks = locks
        self._audit = audit
        self._clock = clock
        self._nonces = Nonces(clock)
        self.copies = copies
        self._limits = limits or JoinLimits(clock)
        self._renewals = Limiter(renewals, clock)
        self._bound_keys: Together[str, Mapping[str, frozenset[str]]] = Together(clusters.keys_of, "bound-keys")
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
        if not self._limits.admits(attempt.address):
            live = await self._tokens.is_live(attempt.token)
            self._limits.hold(attempt.address, hash_token(attempt.token) if live else "")
        try:
            return await self._join(attempt)
        except CellwardError as error:
            await self._failed("cluster.join", attempt.address, error)
            raise

    async def recover(self, attempt: RecoveryAttempt) -> bytes | Joined:
        """Answer a first call with a nonce, and one that has it signed by the bound key with a certificate.

        Nobody is known here: everything is bounded as for joins, and until the signature holds every refusal is the
        same. Raises authority/bad-recovery, authority/not-recovered, authority/locked, authority/replaced,
        authority/too-many-attempts, identity/bad-request or identity/bad-key.
        """
        if not self._limits.admits(attempt.address):
            await self._let_in(attempt)
        try:
            check_recovery_bounds(attempt)
            if not attempt.nonce:
                return self._nonces.make(attempt.cluster_uid, attempt.csr_der)
            return await self._recover(attempt)
        except CellwardError as error:
            await self._failed("certificate.recover", attempt.address, error)
            raise

    async def _let_in(self, attempt: RecoveryAttempt) -> None:
        """Let in whoever proves a bound key from an address that others have used up.

        So is a request for a nonce: it costs no more than its refusal. Raises authority/too-many-attempts.
        """
        holder = ""
        with contextlib.suppress(CellwardError):
            check_recovery_bounds(attempt)
            if not attempt.nonce:
                return
            if self._nonces.holds(attempt.nonce, attempt.cluster_uid, attempt.csr_der):
                held = keymod.spki_digest(attempt.bound_spki_der)
                bound = await self._bound_keys.join(attempt.cluster_uid)
                if held in bound.get(attempt.cluster_uid, ()) and self._is_signed(attempt):
                    holder = f"{attempt.cluster_uid} {held}"
        self._limits.hold(attempt.address, holder)

    def _is_signed(self, attempt: RecoveryAttempt) -> bool:
        spki = keymod.spki_of(public_key_of_csr(attempt.csr_der))
        return is_recovery_signed(
            attempt.bound_spki_der,
            attempt.signature,
            attempt.nonce,
            self._authority.realm(),
            attempt.cluster_uid,
            spki,
        )

    async def _failed(self, action: str, address: str, error: CellwardError) -> None:
        suppressed = self._limits.failed(address)
        _log.warning("enrolment-refused", action=action, code=error.code, address=address)
        if suppressed is not None:
            await self._audit.record(
                action,
                error.details.get("cluster", ""),
                "deny",
                actor=f"address:{address}",
                code=error.code,
                reason=error.message,
                details={"suppressed": str(suppressed)},
            )

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
        if bound is None or bound.removed_at is not None:
            raise NOT_BOUND(f"cluster {grant.cluster} does not exist", cluster=grant.cluster)
        _check_binding(bound, attempt, replace=grant.replace)
        await self._check_locks(grant.cluster, uid=attempt.cluster_uid, key=keymod.spki_digest(spki))
        owner = await self._clusters.name_of_uid(attempt.cluster_uid)
        if owner not in (None, grant.cluster):
            raise UID_TAKEN(f"uid {attempt.cluster_uid} is bound to another name", cluster=grant.cluster)
        digest = keymod.spki_digest(spki)
        again = bound.spki_sha256 == digest and bound.uid == attempt.cluster_uid
        again = again and bound.generation >= bound.generation_floor
        generation = max(1, bound.generation) if again else max(_after(bound.generation), bound.generation_floor)
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

        Only the newest key bound to the name renews; until that one was used, the one before may ask again, for the
        same new key: the answer may have been lost. Whoever else asks is one of two, and both are locked (V7). Raises
        authority/locked, authority/not-bound, authority/replaced, authority/stale-key, authority/too-many-attempts,
        identity/bad-request or identity/bad-key.
        """
        if not self._renewals.take(peer.name):
            raise TOO_MANY_ATTEMPTS(f"cluster {peer.name} renews too often", cluster=peer.name)
        spki = keymod.spki_of(public_key_of_csr(csr_der))
        async with self._lock_of(peer.name):
            bound = await self._bound(peer.name)
            serial = f"{peer.serial:x}"
            await self._check_locks(
                peer.name, uid=bound.uid, serial=serial, key=peer.spki_sha256, next_key=keymod.spki_digest(spki)
            )
            if place_of(bound, peer.spki_sha256, peer.generation) is Place.AHEAD:
                # Only our own key can have certified it, and what is certified is durable before the answer leaves: the
                # store was set back. Whoever was replaced meanwhile is below the floor, which leaves room for that.
                reason = f"generation {peer.generation} was certified, the store knows {bound.generation}"
                await self._finding(peer, SET_BACK.code, reason)
            return await self._follow(bound, peer.spki_sha256, peer.generation, spki, "certificate.renew", str(peer.id))

    async def _recover(self, attempt: RecoveryAttempt) -> Joined:
        if not self._nonces.holds(attempt.nonce, attempt.cluster_uid, attempt.csr_der):
            raise BAD_RECOVERY("the nonce is not of this hub, not for this request, or too old")
        spki = keymod.spki_of(public_key_of_csr(attempt.csr_der))
        name = await self._clusters.name_of_uid(attempt.cluster_uid)
        known = await self._clusters.get(name) if name is not None else None
        held = keymod.spki_digest(attempt.bound_spki_der)
        # Checked for a uid nobody has as well: how long a refusal takes says nothing about who is known here.
        signed = self._is_signed(attempt)
        if known is None or not signed or held not in {known.spki_sha256, known.previous_spki_sha256}:
            raise NOT_RECOVERED("no agent of this uid is bound to this key")
        if not self._renewals.take(known.name):
            raise TOO_MANY_ATTEMPTS(f"cluster {known.name} recovers too often", cluster=known.name)
        async with self._lock_of(known.name):
            certificate = await self._follow_recovery(attempt, known.name, held, spki)
        return Joined(known.name, self._authority.trust_domain(), certificate)

    async def _follow_recovery(self, attempt: RecoveryAttempt, name: str, held: str, spki: bytes) -> AgentCertificate:
        # Read again under the lock of the name: what the signature was checked against may have moved.
        bound = await self._bound(name)
        newest = held == bound.spki_sha256
        if bound.uid != attempt.cluster_uid or not (newest or held == bound.previous_spki_sha256):
            raise NOT_RECOVERED("no agent of this uid is bound to this key")
        serial = bound.serial if newest else ""
        await self._check_locks(name, uid=bound.uid, serial=serial, key=held, next_key=keymod.spki_digest(spki))
        if bound.bound_at is None or self._clock.now() - bound.bound_at > RECOVER_WITHIN:
            raise NOT_RECOVERED(f"cluster {name} had its last certificate more than {RECOVER_WITHIN.days} days ago")
        generation = bound.generation if newest else bound.generation - 1
        return await self._follow(bound, held, generation, spki, "certificate.recover", f"address:{attempt.address}")

    async def _follow(
        self, bound: BoundCluster, held: str, generation: int, spki: bytes, action: str, actor: str
    ) -> AgentCertificate:
        """Certify the key that follows ``held``, or lock both of two holders; under the lock of the name."""
        if place_of(bound, held, generation) is Place.REPLACED:
            raise REPLACED(f"generation {generation} of {bound.name} was replaced", cluster=bound.name)
        digest = keymod.spki_digest(spki)
        step = next_step(bound, held, generation, digest)
        if step is None and digest == bound.spki_sha256 and is_handover(bound.bound_at, self._clock.now()):
            # One agent that asked twice at once: it holds the newest key, and its first question was answered.
            raise OVERTAKEN(f"generation {bound.generation} of {bound.name} is in use", cluster=bound.name)
        if step is None:
            reason = f"generation {generation} asks for a new key while generation {bound.generation} has one"
            details = {"generation": str(generation), "spkiSha256": held, "seen": actor}
            await self.copies.found(bound.name, bound.uid, code=STALE_KEY.code, reason=reason, details=details)
            raise STALE_KEY(f"generation {bound.generation} of {bound.name} has a key already", cluster=bound.name)
        certificate = self._authority.issue_agent(bound.name, spki, step.generation)
        await self._clusters.bind(
            bound.name,
            bound.uid,
            digest,
            bound.statement_spki,
            step.generation,
            certificate.serial,
            step.previous_spki_sha256,
            expected_serial=bound.serial,
        )
        await self._record(action, bound.name, actor, certificate, digest, {})
        return certificate

    async def _bound(self, name: str) -> BoundCluster:
        bound = await self._clusters.get(name)
        if bound is None or not bound.uid or bound.removed_at is not None:
            raise NOT_BOUND(f"nobody joined as {name}", cluster=name)
        return bound

    async def _check_locks(self, name: str, *, uid: str, serial: str = "", key: str = "", next_key: str = "") -> None:
        locks = await self._locks.current()
        lock = locks.hit(cluster=name, uid=uid, serial=serial, key=key) or locks.hit(key=next_key)
        if lock is not None:
            raise LOCKED(f"{lock} is locked", cluster=name, lock=lock)

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
    return generation + TAKE_OVER if generation else 1


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


def check_recovery_bounds(attempt: RecoveryAttempt) -> None:
    """Refuse what cannot be a request to recover before anything is computed for it; raises authority/bad-recovery."""
    if not 0 < len(attempt.csr_der) <= MAX_CSR:
        raise BAD_RECOVERY(f"the request has {len(attempt.csr_der)} bytes, between 1 and {MAX_CSR} are taken")
    if not _UID.match(attempt.cluster_uid):
        raise BAD_RECOVERY("the cluster uid is not an RFC 4122 identifier in lower case")
    if len(attempt.signature) > MAX_SIGNATURE or len(attempt.bound_spki_der) > keymod.MAX_SPKI:
        raise BAD_RECOVERY("the signature or the bound key is too long")


def _check_binding(bound: BoundCluster, attempt: Attempt, *, replace: bool) -> None:
    if not bound.uid or replace:
        return
    if bound.uid != attempt.cluster_uid:
        raise BOUND_TO_ANOTHER(f"cluster {bound.name} is bound to another installation", cluster=bound.name)
    if bound.statement_spki != attempt.statement_spki_der:
        raise BOUND_TO_ANOTHER(f"cluster {bound.name} is bound to another statement key", cluster=bound.name)
