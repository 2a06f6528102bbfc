"""Who gets a certificate: joins by token, renewals by the certificate held, recoveries by the key that is bound.

Order of a join: bounds, rate, realm, proof of possession, token, binding, issue, record. Nothing before the proof of
possession costs more than a comparison. From the token on it is one transaction: a join that is refused leaves the
token unspent, two at once cannot both be the first, and no certificate leaves that has no record.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import structlog

from cellward.errors import CellwardError
from cellward.identity import keys as keymod
from cellward.identity.locks import Lock, LockSet, lock_of
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
from hub.authority.interfaces import IdentityStore, IdentityTables, Locks
from hub.authority.limits import JoinLimits, Limiter, Rate
from hub.authority.lineage import TAKE_OVER, Place, is_handover, next_step, place_of
from hub.authority.model import AgentCertificate, Attempt, Joined, RecoveryAttempt
from hub.authority.nonces import Nonces
from hub.authority.tokens import Grant, JoinTokens, check_token, hash_token
from hub.store.interfaces import ClusterRow
from hub.store.log import AuditEvent
from hub.store.shared import Batch, Together

T = TypeVar("T")
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

    def __init__(
        self,
        *,
        authority: Authority,
        tokens: JoinTokens,
        store: IdentityStore,
        locks: Locks,
        copies: Copies,
        clock: Clock,
        limits: JoinLimits | None = None,
        renewals: Rate = RENEWALS,
    ) -> None:
        self._authority = authority
        self._tokens = tokens
        self._store = store
        self._locks = locks
        self._clock = clock
        self._nonces = Nonces(clock)
        self.copies = copies
        self._limits = limits or JoinLimits(clock)
        self._renewals = Limiter(renewals, clock)
        self._bound_keys: Together[str, Mapping[str, frozenset[str]]] = Together(store.clusters.keys_of, "bound-keys")
        # A fleet that joins at once shares transactions; whoever is refused shares none.
        self._joins: Batch[IdentityTables, Joined] = Batch(self._transact, "joins")

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
            event = AuditEvent(
                f"address:{address}",
                action,
                error.details.get("cluster", ""),
                "deny",
                code=error.code,
                reason=error.message,
                details={"suppressed": str(suppressed)},
            )
            await self._store.audit.put_events([event])

    async def _transact(self, job: Callable[[IdentityTables], Awaitable[T]]) -> T:
        return await self._store.transact(job)

    async def _join(self, attempt: Attempt) -> Joined:
        check_bounds(attempt)
        if attempt.realm != self._authority.realm():
            raise WRONG_REALM(f"the agent belongs to {attempt.realm}, this hub to another")
        spki = keymod.spki_of(public_key_of_csr(attempt.csr_der))
        keymod.load_signing_spki(attempt.statement_spki_der)
        signed = await self._locks.signed()

        async def job(tables: IdentityTables) -> Joined:
            grant = await self._tokens.spend(attempt.token, keymod.spki_digest(spki), tokens=tables.tokens)
            certificate = await self._bind(tables, attempt, grant, spki, signed)
            return Joined(grant.cluster, self._authority.trust_domain(), certificate)

        return await self._joins.run(job)

    async def _bind(
        self, tables: IdentityTables, attempt: Attempt, grant: Grant, spki: bytes, signed: Sequence[Lock]
    ) -> AgentCertificate:
        bound = await tables.clusters.get(grant.cluster)
        if bound is None or bound.removed_at is not None:
            raise NOT_BOUND(f"cluster {grant.cluster} does not exist", cluster=grant.cluster)
        _check_binding(bound, attempt, replace=grant.replace)
        held = await _locks(tables, signed)
        _check_locks(held, grant.cluster, uid=attempt.cluster_uid, key=keymod.spki_digest(spki))
        owner = await tables.clusters.name_of_uid(attempt.cluster_uid)
        if owner not in (None, grant.cluster):
            raise UID_TAKEN(f"uid {attempt.cluster_uid} is bound to another name", cluster=grant.cluster)
        digest = keymod.spki_digest(spki)
        again = bound.spki_sha256 == digest and bound.uid == attempt.cluster_uid
        again = again and bound.generation >= bound.generation_floor
        generation = max(1, bound.generation) if again else max(_after(bound.generation), bound.generation_floor)
        certificate = self._authority.issue_agent(grant.cluster, spki, generation)
        await tables.clusters.bind(
            grant.cluster,
            attempt.cluster_uid,
            digest,
            attempt.statement_spki_der,
            generation,
            certificate.serial,
            bound.previous_spki_sha256 if again else "",
            # Whoever held the name before is out, the first of all joins aside.
            generation if bound.generation and not again else 0,
        )
        details = {
            "uid": attempt.cluster_uid,
            "replaced": str(bool(bound.uid) and bound.uid != attempt.cluster_uid).lower(),
        }
        event = _issued("cluster.join", grant.cluster, f"address:{attempt.address}", certificate, digest, details)
        await tables.audit.put_events([event])
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
        signed = await self._locks.signed()

        async def job(tables: IdentityTables) -> AgentCertificate | CellwardError:
            bound = await _bound(tables, peer.name)
            _check_locks(
                await _locks(tables, signed), peer.name, uid=bound.uid, serial=f"{peer.serial:x}", key=peer.spki_sha256,
                next_key=keymod.spki_digest(spki),
            )  # fmt: skip
            if place_of(bound, peer.spki_sha256, peer.generation) is Place.AHEAD:
                # Only our own key can have certified it, and what is certified is durable before the answer leaves: the
                # store was restored. Whoever was replaced meanwhile is below the floor, which leaves room for that.
                reason = f"generation {peer.generation} was certified, the store knows {bound.generation}"
                await tables.audit.put_events([_set_back(peer, reason)])
            asked = _Asked(peer.spki_sha256, peer.generation, spki, "certificate.renew", str(peer.id))
            return await self._follow(tables, bound, asked)

        return _certificate(await self._store.transact(job))

    async def _recover(self, attempt: RecoveryAttempt) -> Joined:
        if not self._nonces.holds(attempt.nonce, attempt.cluster_uid, attempt.csr_der):
            raise BAD_RECOVERY("the nonce is not of this hub, not for this request, or too old")
        spki = keymod.spki_of(public_key_of_csr(attempt.csr_der))
        name = await self._store.clusters.name_of_uid(attempt.cluster_uid)
        known = await self._store.clusters.get(name) if name is not None else None
        held = keymod.spki_digest(attempt.bound_spki_der)
        # Checked for a uid nobody has as well: how long a refusal takes says nothing about who is known here.
        signed = self._is_signed(attempt)
        if known is None or not signed or held not in {known.spki_sha256, known.previous_spki_sha256}:
            raise NOT_RECOVERED("no agent of this uid is bound to this key")
        if not self._renewals.take(known.name):
            raise TOO_MANY_ATTEMPTS(f"cluster {known.name} recovers too often", cluster=known.name)
        locked = await self._locks.signed()
        found = await self._store.transact(
            lambda tables: self._follow_recovery(tables, attempt, known.name, held, spki, locked)
        )
        return Joined(known.name, self._authority.trust_domain(), _certificate(found))

    async def _follow_recovery(
        self,
        tables: IdentityTables,
        attempt: RecoveryAttempt,
        name: str,
        held: str,
        spki: bytes,
        signed: Sequence[Lock],
    ) -> AgentCertificate | CellwardError:
        # Read again in the transaction: what the signature was checked against may have moved.
        bound = await _bound(tables, name)
        newest = held == bound.spki_sha256
        if bound.uid != attempt.cluster_uid or not (newest or held == bound.previous_spki_sha256):
            raise NOT_RECOVERED("no agent of this uid is bound to this key")
        _check_locks(
            await _locks(tables, signed), name, uid=bound.uid, serial=bound.serial if newest else "", key=held,
            next_key=keymod.spki_digest(spki),
        )  # fmt: skip
        if bound.bound_at is None or self._clock.now() - bound.bound_at > RECOVER_WITHIN:
            raise NOT_RECOVERED(f"cluster {name} had its last certificate more than {RECOVER_WITHIN.days} days ago")
        generation = bound.generation if newest else bound.generation - 1
        asked = _Asked(held, generation, spki, "certificate.recover", f"address:{attempt.address}")
        return await self._follow(tables, bound, asked)

    async def _follow(
        self, tables: IdentityTables, bound: ClusterRow, asked: _Asked
    ) -> AgentCertificate | CellwardError:
        """Certify the key that follows the one held; of two holders lock both, and return what to refuse them with.

        Returned, because what is raised would take the lock back.
        """
        held, generation = asked.held, asked.generation
        if place_of(bound, held, generation) is Place.REPLACED:
            raise REPLACED(f"generation {generation} of {bound.name} was replaced", cluster=bound.name)
        digest = keymod.spki_digest(asked.spki)
        step = next_step(bound, held, generation, digest)
        if step is None and digest == bound.spki_sha256 and is_handover(bound.bound_at, self._clock.now()):
            # One agent that asked twice at once: it holds the newest key, and its first question was answered.
            raise OVERTAKEN(f"generation {bound.generation} of {bound.name} is in use", cluster=bound.name)
        if step is None:
            reason = f"generation {generation} asks for a new key while generation {bound.generation} has one"
            details = {"generation": str(generation), "spkiSha256": held, "seen": asked.actor}
            await self.copies.found(
                bound.name, bound.uid, code=STALE_KEY.code, reason=reason, details=details, tables=tables
            )
            return STALE_KEY(f"generation {bound.generation} of {bound.name} has a key already", cluster=bound.name)
        certificate = self._authority.issue_agent(bound.name, asked.spki, step.generation)
        await tables.clusters.bind(
            bound.name,
            bound.uid,
            digest,
            bound.statement_spki,
            step.generation,
            certificate.serial,
            step.previous_spki_sha256,
        )
        event = _issued(asked.action, bound.name, asked.actor, certificate, digest, {})
        await tables.audit.put_events([event])
        return certificate


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who asks for the next certificate: the holder of ``held``, certified as ``generation``, for the key ``spki``."""

    held: str
    generation: int
    spki: bytes
    action: str
    actor: str


def _certificate(found: AgentCertificate | CellwardError) -> AgentCertificate:
    if isinstance(found, CellwardError):
        raise found
    return found


async def _bound(tables: IdentityTables, name: str) -> ClusterRow:
    bound = await tables.clusters.get(name)
    if bound is None or not bound.uid or bound.removed_at is not None:
        raise NOT_BOUND(f"nobody joined as {name}", cluster=name)
    return bound


async def _locks(tables: IdentityTables, signed: Sequence[Lock]) -> LockSet:
    return LockSet([*signed, *(lock_of(row.kind, row.subject, row.reason) for row in await tables.locks.list())])


def _check_locks(locks: LockSet, name: str, *, uid: str, serial: str = "", key: str = "", next_key: str = "") -> None:
    lock = locks.hit(cluster=name, uid=uid, serial=serial, key=key) or locks.hit(key=next_key)
    if lock is not None:
        raise LOCKED(f"{lock} is locked", cluster=name, lock=lock)


def _set_back(peer: PeerIdentity, reason: str) -> AuditEvent:
    return AuditEvent(
        str(peer.id),
        "certificate.renew",
        f"Cluster//{peer.name}",
        "finding",
        code=SET_BACK.code,
        reason=reason,
        details={"generation": str(peer.generation), "spkiSha256": peer.spki_sha256},
    )


def _issued(
    action: str, cluster: str, actor: str, issued: AgentCertificate, spki_sha256: str, more: Mapping[str, str]
) -> AuditEvent:
    details = {"serial": issued.serial, "generation": str(issued.generation), "spkiSha256": spki_sha256, **more}
    return AuditEvent(actor, action, f"Cluster//{cluster}", "allow", details=details)


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


def _check_binding(bound: ClusterRow, attempt: Attempt, *, replace: bool) -> None:
    if not bound.uid or replace:
        return
    if bound.uid != attempt.cluster_uid:
        raise BOUND_TO_ANOTHER(f"cluster {bound.name} is bound to another installation", cluster=bound.name)
    if bound.statement_spki != attempt.statement_spki_der:
        raise BOUND_TO_ANOTHER(f"cluster {bound.name} is bound to another statement key", cluster=bound.name)
