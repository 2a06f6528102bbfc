"""Getting and keeping an identity, as ``agent.link.holding`` says: join by token, renewal over the link, recovery."""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import grpc.aio
import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from agent.link import holding as machine
from agent.link.channels import ChannelHolder, enrolment_channel, link_channel
from agent.link.errors import BAD_IDENTITY, NO_TOKEN
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
        channels: notified of each new identity.
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
        self._trust_domain = trust_domain_of(settings.realm)
        self._authorities = _keyids(settings.hub_ca_pem)
        self._state = machine.State(self._authorities)
        self._wait: machine.Wait | None = None
        self._turn = asyncio.Lock()

    @property
    def authorities(self) -> frozenset[str]:
        """Key ids of the hub authorities that the settings name."""
        return self._authorities

    async def obtain(self) -> LinkIdentity:
        """Return the stored identity, or join until it works; the channel of one that lives is then there.

        With a stored identity this never waits for the hub, not even with one that has expired: the rest of the agent
        begins to enforce (V1), and ``keep`` recovers the identity.
        """
        while self._state.identity is None:
            await self._go_on()
        return self._state.identity

    async def keep(self) -> None:
        """Renew at half life, for ever; ``obtain`` must have returned before."""
        while True:
            await self._go_on()

    # -- one event at a time -------------------------------------------------------------------------------------------

    async def _go_on(self) -> None:
        """Wait as the machine says, then let it go on; a wait that was overtaken by another is not for anything."""
        wait = self._wait
        if wait is not None:
            await self._pause(wait.until)
        async with self._turn:
            if self._wait is wait:
                await self._work(machine.Due(self._moment()))

    async def _work(self, event: machine.Event) -> None:
        self._state, effects = machine.step(self._state, event)
        for effect in effects:
            outcome = await self._carry_out(effect)
            if outcome is not None:
                await self._work(outcome)

    async def _carry_out(self, effect: machine.Effect) -> machine.Event | None:
        match effect:
            case machine.Load():
                return self._load()
            case machine.Ask(call, name):
                return await self._ask(call, name)
            case machine.Install(identity):
                self._channels.install(identity)
            case machine.Suspend(identity):
                self._channels.suspend(identity)
            case machine.Tell(code, reason):
                self._health.set(CONDITION, ok=not code, code=code, message=reason)
            case machine.ForgetFailures():
                self._backoff.reset()
                self._patience.reset()
            case machine.Wait():
                self._wait = effect
        return None

    def _load(self) -> machine.Event:
        try:
            identity = self._store.load()
        except (CellwardError, OSError) as error:
            failure, code, reason = _failure(error, "link/identity-unreadable")
            return machine.Unreadable(self._moment(), failure, code, reason)
        if identity is not None and identity.trust_domain != self._trust_domain:
            identity = None
        return machine.Loaded(self._moment(), self._with_authorities(identity) if identity is not None else None)

    async def _ask(self, call: machine.Call, name: str | None) -> machine.Event:
        held = self._state.identity
        try:
            if call is machine.Call.JOIN or held is None:
                identity = await self._join(name)
            elif call is machine.Call.RENEW:
                identity = await self._renew(held)
            else:
                identity = await self._recover(held)
        except (CellwardError, OSError) as error:
            failure, code, reason = _failure(error, "spool/unwritable")
            spent = isinstance(error, CellwardError) and _is_spent(error)
            return machine.Failed(self._moment(), call, failure, code, reason, spent)
        return machine.Got(self._moment(), identity)

    def _moment(self) -> machine.Moment:
        try:
            return machine.Moment(self._timer.now(), _digest(self._token()))
        except CellwardError:
            return machine.Moment(self._timer.now())

    # -- what a hub is asked for ---------------------------------------------------------------------------------------

    async def _join(self, name: str | None) -> LinkIdentity:
        """Spend the join token once; raises what the hub refused, or ``link/no-join-token``.

        ``name``: the name held so far, which selectors match and no hub may change (design §2).
        """
        token = self._token()
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
                raise status.error_of(error) from error
        identity = self._checked(key, answer, answer.link_address, name)
        self._store.save(identity)
        return identity

    async def renew(self) -> LinkIdentity:
        """Renew once, because somebody wants it, and install the result; raises what the hub refused.

        One at a time: a second request with the certificate that the first one replaces is what a copy looks like (V7).
        """
        async with self._turn:
            held = self._state.identity
            if held is None:
                raise NO_TOKEN("there is no identity to renew")
            renewed = await self._renew(held)
            await self._work(machine.Got(self._moment(), renewed))
            return renewed

    async def _renew(self, identity: LinkIdentity) -> LinkIdentity:
        """Renew over a channel of its own with the current certificate."""
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
        return renewed

    async def _recover(self, identity: LinkIdentity) -> LinkIdentity:
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

    async def _pause(self, until: machine.Until) -> None:
        """Wait; for minutes only while there is no new token."""
        if until is machine.Until.HALF_LIFE:
            identity = self._state.identity
            await self._timer.sleep(self.renewal_delay(identity) if identity is not None else 0.0)
        elif until is machine.Until.SOON:
            await self._backoff.wait(self._timer)
        else:
            left = self._patience.next()
            while left > 0 and self._moment().token in {"", self._state.tried}:
                await self._timer.sleep(min(LOOK, left))
                left -= LOOK

    def renewal_delay(self, identity: LinkIdentity) -> float:
        """Seconds until renewal is due: half life ± 10 %, so that agents do not renew in step (V5).

        At once where the identity is of a hub that this agent was taken away from.
        """
        if machine.is_foreign(identity, self._authorities):
            return 0.0
        due = identity.received_unix + identity.lifetime * 0.5 * self._rng.uniform(0.9, 1.1)
        return max(0.0, due - self._timer.now().timestamp())

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

    def _with_authorities(self, identity: LinkIdentity) -> LinkIdentity:
        """Return a stored identity of this hub with the authorities of the settings, and keep them with it."""
        text = " ".join(sorted(self._authorities))
        if not text or identity.authorities == text or machine.is_foreign(identity, self._authorities):
            return identity
        named = replace(identity, authorities=text)
        try:
            self._store.rewrite(named)
        except OSError as error:
            # The agent enforces all the same (V1); what the file says is compared again at the next start.
            _log.warning("identity-not-rewritten", reason=str(error))
        return named

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


def _failure(error: Exception, otherwise: str) -> tuple[machine.Failure, str, str]:
    """What can be done about an error, its code and what it says; ``otherwise`` is the code of one of the disk."""
    if not isinstance(error, CellwardError):
        return machine.Failure.PASSES, otherwise, str(error)
    if isinstance(error, Unavailable):
        return machine.Failure.AWAY, error.code, error.message
    failure = machine.Failure.PASSES if isinstance(error, Exhausted) else machine.Failure.PERSON
    return failure, error.code, error.message
