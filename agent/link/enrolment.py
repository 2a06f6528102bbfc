"""Getting and keeping an identity: join by token, renewal over the link, recovery by the bound key."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import grpc.aio
import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from agent.link.channels import ChannelHolder, enrolment_channel, link_channel
from agent.link.errors import BAD_IDENTITY, CERTIFICATE_EXPIRED, IDENTITY_UNREADABLE, NO_TOKEN, OTHER_HUB
from agent.link.identity import IdentityStore, LinkIdentity, accept_identity
from cellward.errors import CellwardError, Exhausted, Unavailable
from cellward.identity import keys, x509
from cellward.identity.names import trust_domain_of
from cellward.identity.recovery import sign_recovery
from cellward.runtime.backoff import FullJitter
from cellward.runtime.clock import Timer
from cellward.runtime.health import HealthRegistry
from cellward.wire import status
from cellward.wire.v1 import enrolment_pb2, enrolment_pb2_grpc, identity_pb2, identity_pb2_grpc

_log = structlog.get_logger()

#: Condition set by this module.
CONDITION = "certificate"
#: Seconds one call may take.
CALL_TIMEOUT = 20.0
#: Seconds between looks at the token file while a refusal stands.
LOOK = 1.0
_MAX_TOKEN = 256
#: What a hub says of a token that will never be good again.
_SPENT = "authority/bad-token"


@dataclass(frozen=True, slots=True)
class EnrolmentSettings:
    """What joining needs.

    Attributes:
        realm: realm of the installation.
        uid: cluster uid.
        statement_spki_der: public statement key.
        enrolment_address: host:port.
        hub_ca_pem: from the join line, out of band.
        token_file: only needed once.
    """

    realm: str
    uid: str
    statement_spki_der: bytes
    enrolment_address: str
    hub_ca_pem: bytes
    token_file: Path | None


class IdentityKeeper:
    """Holds the identity of this agent and keeps it fresh; never raises out of ``run``.

    Args:
        settings: see EnrolmentSettings.
        store: files.
        channels: told about each new identity.
        timer: the agent's clock.
        health: gets the condition ``certificate``.
        rng: chance for the time of renewal.
        backoff: delays between failed tries.
        patience: delays after a refusal that only a person can change.
    """

    def __init__(
        self,
        settings: EnrolmentSettings,
        store: IdentityStore,
        channels: ChannelHolder,
        timer: Timer,
        health: HealthRegistry,
        *,
        rng: random.Random | None = None,
        backoff: FullJitter | None = None,
        patience: FullJitter | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._channels = channels
        self._timer = timer
        self._health = health
        self._rng: random.Random = rng if rng is not None else random.SystemRandom()
        self._backoff = backoff if backoff is not None else FullJitter()
        # Every refusal counts against all agents behind one address: a fleet that asks on and on keeps newcomers out.
        self._patience = patience if patience is not None else FullJitter(base=120.0, cap=600.0)
        #: Digest of the token of the last try, and what the hub said of it when it will never take it.
        self._tried = ""
        self._refused: CellwardError | None = None
        self._trust_domain = trust_domain_of(settings.realm)
        self._authorities = _keyids(settings.hub_ca_pem)
        self._renewing = asyncio.Lock()
        #: Called after each renewal, for the audit record and metrics.
        self.on_identity: list[Callable[[LinkIdentity], None]] = []

    @property
    def authorities(self) -> frozenset[str]:
        """Key ids of the hub authorities that the settings name."""
        return self._authorities

    async def obtain(self) -> LinkIdentity:
        """Return the stored identity, or join until it works; the channel of one that lives is then there.

        With a stored identity this never waits for the hub, not even with one that has expired: the rest of the agent
        begins to enforce (V1), and ``keep`` finds the way back.
        """
        while True:
            try:
                identity = self._store.load()
                if identity is None or identity.trust_domain != self._trust_domain:
                    identity = await self.join()
                else:
                    identity = self._with_authorities(identity)
            except CellwardError as error:
                self._health.set(CONDITION, ok=False, code=error.code, message=error.message)
                await self._pause(error)
                continue
            except OSError as error:
                self._health.set(CONDITION, ok=False, code=IDENTITY_UNREADABLE.code, message=str(error))
                await self._timer.sleep(self._backoff.next())
                continue
            self._forget_failures()
            self._install(identity)
            return identity

    async def keep(self) -> None:
        """Renew at half life, for ever; ``obtain`` must have returned before."""
        while True:
            identity = self._channels.identity
            if identity is None:
                identity = await self.obtain()
            await self._timer.sleep(self.renewal_delay(identity))
            await self._renew_until_done(identity)

    def renewal_delay(self, identity: LinkIdentity) -> float:
        """Seconds until renewal is due: half life ± 10 %, so that agents do not renew in step (V5).

        At once where the identity is of a hub that this agent was taken away from.
        """
        if self._is_foreign(identity):
            return 0.0
        due = identity.received_unix + identity.lifetime * 0.5 * self._rng.uniform(0.9, 1.1)
        return max(0.0, due - self._timer.now().timestamp())

    async def join(self, name: str | None = None) -> LinkIdentity:
        """Spend the join token once; raises what the hub refused, or ``link/no-join-token``.

        A token that the hub will never take is not shown to it again. ``name``: the name held so far, which selectors
        match and no hub may change (design §2).
        """
        token = self._token()
        if self._refused is not None and self._tried == _digest(token):
            # Raised again and again: it must not gather the traceback of each time.
            raise self._refused.with_traceback(None)
        self._tried, self._refused = _digest(token), None
        key = self._store.pending_key()
        request = enrolment_pb2.JoinRequest(
            token=token,
            csr_der=x509.make_csr(key),
            realm=self._settings.realm,
            cluster_uid=self._settings.uid,
            statement_spki_der=self._settings.statement_spki_der,
        )
        async with enrolment_channel(self._settings.enrolment_address, self._settings.hub_ca_pem) as channel:
            try:
                answer = await enrolment_pb2_grpc.EnrolmentStub(channel).Join(request, timeout=CALL_TIMEOUT)
            except grpc.aio.AioRpcError as error:
                failure = status.error_of(error)
                if _is_spent(failure):
                    self._refused = failure
                raise failure from error
        identity = self._checked(key, answer, answer.link_address, name)
        self._store.save(identity)
        return identity

    async def renew(self) -> LinkIdentity:
        """Renew once over a channel of its own with the current certificate, and install the result.

        One at a time: a second request with the certificate that the first one replaces is what a copy looks like (V7).
        """
        async with self._renewing:
            return await self._renew()

    async def _renew(self) -> LinkIdentity:
        identity = self._channels.identity
        if identity is None:
            raise NO_TOKEN("there is no identity to renew")
        key = self._store.pending_key()
        async with link_channel(identity) as channel:
            try:
                answer = await identity_pb2_grpc.IdentityStub(channel).Renew(
                    identity_pb2.RenewRequest(csr_der=x509.make_csr(key)), timeout=CALL_TIMEOUT
                )
            except grpc.aio.AioRpcError as error:
                raise status.error_of(error) from error
        renewed = self._checked(key, answer, identity.link_address, identity.name)
        self._store.save(renewed)
        self._install(renewed)
        return renewed

    async def recover(self, identity: LinkIdentity) -> LinkIdentity:
        """Ask for a new certificate by proving the key of the expired one; raises what the hub refused."""
        key = self._store.pending_key()
        old = keys.private_from_pem(identity.key_pem.encode(), None)
        if not isinstance(old, ec.EllipticCurvePrivateKey):
            raise BAD_IDENTITY("the stored key is not a TLS key")
        request = enrolment_pb2.RecoverRequest(cluster_uid=self._settings.uid, csr_der=x509.make_csr(key))
        async with enrolment_channel(self._settings.enrolment_address, self._settings.hub_ca_pem) as channel:
            stub = enrolment_pb2_grpc.EnrolmentStub(channel)
            try:
                challenge = await stub.Recover(request, timeout=CALL_TIMEOUT)
                settings, spki = self._settings, keys.spki_of(key)
                request.signature = sign_recovery(old, challenge.nonce, settings.realm, settings.uid, spki)
                request.nonce = challenge.nonce
                request.bound_spki_der = keys.spki_of(old)
                answer = await stub.Recover(request, timeout=CALL_TIMEOUT)
            except grpc.aio.AioRpcError as error:
                raise status.error_of(error) from error
        found = self._checked(key, answer.identity, answer.identity.link_address, identity.name)
        self._store.save(found)
        return found

    async def _revive(self, identity: LinkIdentity) -> LinkIdentity:
        """Recover an expired identity, or join anew when a token was given for that."""
        try:
            return await self.recover(identity)
        except Unavailable:
            raise
        except CellwardError as refused:
            try:
                return await self.join(identity.name)
            except CellwardError as error:
                ended = identity.not_after.isoformat()
                raise CERTIFICATE_EXPIRED(
                    f"the certificate expired at {ended}; recovery: {refused.message}; join: {error.message}"
                ) from error

    async def _renew_or_join(self, identity: LinkIdentity) -> None:
        """Renew; or, when the hub refuses that for good and somebody gave a new token, join with it at once.

        That is the way back of an agent whose certificates were taken out of force while they still live.
        """
        try:
            await self.renew()
        except CellwardError as error:
            if not _needs_a_person(error) or not self._has_new_token():
                raise
            self._install(await self.join(identity.name))

    async def _renew_until_done(self, identity: LinkIdentity) -> None:
        while True:
            try:
                if self._is_foreign(identity):
                    self._install(await self.join(identity.name))
                elif identity.not_after <= self._timer.now():
                    self._channels.suspend(identity)
                    self._install(await self._revive(identity))
                else:
                    await self._renew_or_join(identity)
            except (CellwardError, OSError) as error:
                self._report(identity, error)
                if identity.not_after <= self._timer.now() or self._is_foreign(identity):
                    await self._pause(error)
                else:
                    # A lock may be lifted while the certificate still lives: that is not missed by minutes.
                    await self._timer.sleep(self._backoff.next())
                continue
            self._forget_failures()
            return

    async def _pause(self, error: Exception) -> None:
        """Wait before the next try: not long for what may pass, for minutes or a new token after a refusal."""
        if not _needs_a_person(error):
            await self._timer.sleep(self._backoff.next())
            return
        left = self._patience.next()
        while left > 0 and not self._has_new_token():
            await self._timer.sleep(min(LOOK, left))
            left -= LOOK

    def _has_new_token(self) -> bool:
        try:
            return _digest(self._token()) != self._tried
        except CellwardError:
            return False

    def _forget_failures(self) -> None:
        self._backoff.reset()
        self._patience.reset()

    def _report(self, identity: LinkIdentity, error: Exception) -> None:
        expired = identity.not_after <= self._timer.now()
        code = error.code if isinstance(error, CellwardError) else "spool/unwritable"
        # Half of the life is left when renewal begins: an outage of minutes is no reason for alarm.
        close = (identity.not_after - self._timer.now()).total_seconds() < identity.lifetime * 0.25
        if expired or close or not isinstance(error, Unavailable):
            self._health.set(CONDITION, ok=False, code=code, message=f"the certificate cannot be renewed: {error}")

    def _checked(
        self,
        key: ec.EllipticCurvePrivateKey,
        answer: enrolment_pb2.JoinResponse | identity_pb2.RenewResponse,
        link_address: str,
        name: str | None,
    ) -> LinkIdentity:
        """Return what the hub issued, checked, with the authorities that the installation names now."""
        found = accept_identity(
            key,
            answer.certificate_chain_pem,
            answer.hub_ca_pem,
            trust_domain=self._trust_domain,
            link_address=link_address,
            now=self._timer.now(),
            name=name,
        )
        return replace(found, authorities=" ".join(sorted(self._authorities)))

    def _is_foreign(self, identity: LinkIdentity) -> bool:
        """Whether whoever installs this agent has taken it away from the hub that issued this identity.

        That is said out of band, by another authority in the settings: no hub can bring it about. Keys are compared, so
        that an authority that was renewed, or one that is added for a while, changes nothing. The authorities that the
        hub sent say nothing here: it could have its agents leave, with nowhere to go.
        """
        known = frozenset(identity.authorities.split())
        return bool(self._authorities and known) and known.isdisjoint(self._authorities)

    def _with_authorities(self, identity: LinkIdentity) -> LinkIdentity:
        """Return a stored identity of this hub with the authorities of the settings, and keep them with it."""
        text = " ".join(sorted(self._authorities))
        if not text or identity.authorities == text or self._is_foreign(identity):
            return identity
        named = replace(identity, authorities=text)
        try:
            self._store.rewrite(named)
        except OSError as error:
            # The agent enforces all the same (V1); what the file says is compared again at the next start.
            _log.warning("identity-not-rewritten", reason=str(error))
        return named

    def _install(self, identity: LinkIdentity) -> None:
        if self._is_foreign(identity):
            # Stolen, maybe: it would renew for ever, and name any address.
            self._channels.suspend(identity)
            moved = OTHER_HUB("the settings name the authority of another hub; this agent has not joined it yet")
            self._health.set(CONDITION, ok=False, code=moved.code, message=moved.message)
        elif identity.not_after > self._timer.now():
            self._channels.install(identity)
            self._health.set(CONDITION, ok=True)
        else:
            self._channels.suspend(identity)
            expired = CERTIFICATE_EXPIRED(f"the certificate expired at {identity.not_after.isoformat()}")
            self._health.set(CONDITION, ok=False, code=expired.code, message=expired.message)
        for callback in self.on_identity:
            callback(identity)

    def _token(self) -> str:
        path = self._settings.token_file
        if path is None:
            raise NO_TOKEN("no join_token_file is set")
        try:
            token = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise NO_TOKEN(f"{path} cannot be read: {error}") from error
        if not 0 < len(token) <= _MAX_TOKEN:
            raise NO_TOKEN(f"{path} holds no token of 1 to {_MAX_TOKEN} characters")
        return token


def _keyids(pem: bytes) -> frozenset[str]:
    """Key ids of authorities in PEM; none for what is no PEM of authorities, which opens no channel either."""
    try:
        return frozenset(x509.authority_keyids(pem))
    except CellwardError:
        return frozenset()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _is_spent(failure: CellwardError) -> bool:
    """Whether the hub will never take the token; an agent need not know the hub's codes, then one travels beside."""
    return _SPENT in {failure.code, failure.details.get("remote_code")}


def _needs_a_person(error: Exception) -> bool:
    """Whether asking again would bring the same answer until somebody does something about joining."""
    if isinstance(error, CellwardError) and error.code == CERTIFICATE_EXPIRED.code:
        return _needs_a_person(error.__cause__) if isinstance(error.__cause__, CellwardError) else True
    return isinstance(error, CellwardError) and not isinstance(error, Unavailable | Exhausted)
