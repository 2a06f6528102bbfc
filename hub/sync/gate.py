"""Who is at the other end of a call, checked when it starts and again while it lasts (V3, V4).

gRPC checks a client certificate in the handshake and never again; it accepts one that has expired since, and one that
expired before on a resumed session. So every call is checked here against the clock, the authorities and the locks,
and every open stream is visited by ``tick`` at least once a second. Who may not speak is kept in memory and read again
when something changed, at most twice a second however many calls begin.

What the signature and the shape of a certificate prove cannot change as long as the authorities are the same. It is
remembered while a call with exactly these bytes is open, no longer; everything that can change is looked at each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from weakref import WeakValueDictionary

import structlog
from cryptography import x509

from cellward.errors import CellwardError
from cellward.identity.errors import EXPIRED
from cellward.identity.x509 import PeerIdentity, ProvenPeer, check_times, prove_peer
from cellward.runtime.clock import Clock
from cellward.runtime.tasks import heard
from hub.authority.copies import Copies
from hub.authority.errors import LOCKED, NOT_BOUND, REPLACED, STALE_KEY
from hub.authority.lineage import Place, is_handover, place_of
from hub.store.interfaces import ClusterRow
from hub.sync.errors import NO_CERTIFICATE, RESUMED_SESSION, SUPERSEDED, TOO_MANY_CALLS, WEAK_TRANSPORT
from hub.sync.interfaces import DirectoryPort, Standing

#: What gRPC says of a connection: lists of bytes by property name.
AuthContext = Mapping[str, Iterable[bytes]]
#: Streams an agent has one of. Sync is not among them: who has two of those is asked which one answers (V7).
ONE_EACH = frozenset({"/cellward.wire.v1.Telemetry/PushAudit", "/cellward.wire.v1.Telemetry/PushMetrics"})
_NEVER = datetime.max.replace(tzinfo=UTC)
_log = structlog.get_logger()
_current: ContextVar[PeerIdentity] = ContextVar("cellward-peer")


def current_peer() -> PeerIdentity:
    """Identity of the peer whose call is being handled; set by the guard of the link listener and by nothing else."""
    return _current.get()


@dataclass(eq=False, slots=True)
class Live:
    """A call that is open. ``cut`` is resolved with the reason when the peer may no longer speak."""

    proven: ProvenPeer
    authorities: Sequence[x509.Certificate]
    cut: asyncio.Future[CellwardError] = field(repr=False)
    #: What was bound to the name when the call began.
    bound: ClusterRow | None = field(default=None, repr=False)
    #: What is called; empty before the call is open.
    method: str = ""

    @property
    def peer(self) -> PeerIdentity:
        """Whose call it is."""
        return self.proven.identity


class PeerGate:
    """Checks peers of the link listener."""

    def __init__(  # noqa: PLR0913 - one composition, by keyword
        self,
        *,
        authorities: Callable[[], Sequence[x509.Certificate]],
        trust_domain: Callable[[], str],
        directory: DirectoryPort,
        stamp: Callable[[], object],
        clock: Clock,
        poll: float = 5.0,
        view_age: float = 0.5,
        calls_per_cluster: int = 24,
        copies: Copies | None = None,
    ) -> None:
        self._authorities = authorities
        self._trust_domain = trust_domain
        self._directory = directory
        self._clock = clock
        self._stamp = stamp
        self._poll = poll
        self._view_age = view_age
        self._calls_per_cluster = calls_per_cluster
        self._copies = copies
        self._standing = Standing()
        self._view: tuple[object, float] | None = None
        self._refreshing = asyncio.Lock()
        self._looking: asyncio.Future[None] | None = None
        self._live: dict[str, set[Live]] = {}
        self._proofs = PeerProofs()
        #: By what all open calls were looked at last, and the first end of a certificate among them.
        self._looked_by: tuple[Standing, Sequence[x509.Certificate]] | None = None
        self._first_end = _NEVER
        self._new: set[Live] = set()

    async def admit(self, auth: AuthContext) -> Live:
        """Check a new call whole.

        Raises link/*, identity/*, authority/locked, authority/not-bound and authority/replaced errors.
        """
        check_transport(auth)
        pem = _only(auth, "x509_pem_cert")
        authorities = self._authorities()
        proven = self._proofs.prove(pem, authorities, self._clock.now(), self._trust_domain())
        peer = proven.identity
        # The next tick sees what changed within the age of the view, and cuts what was let in by it.
        await self._refresh(self._view_age)
        self.check_standing(peer)
        self._check_count(peer.name)
        bound = await self._commit(peer)
        return Live(proven, authorities, asyncio.get_running_loop().create_future(), bound)

    async def check_newest(self, live: Live) -> None:
        """Refuse a call of a key that a newer one in use has followed, and lock both holders (V7).

        For calls that do not ask themselves, as Hello and renewals do: a copy that keeps away from those two, and only
        reads what its original is given, is found by them. Raises authority/stale-key.
        """
        peer, bound = live.peer, live.bound
        if bound is None or place_of(bound, peer.spki_sha256, peer.generation) is not Place.STALE:
            return
        if is_handover(bound.bound_at, self._clock.now()):
            return
        reason = f"generation {peer.generation} calls while generation {bound.generation} is in use"
        details = {"generation": str(peer.generation), "spkiSha256": peer.spki_sha256}
        if self._copies is not None:
            await self._copies.found(bound.name, bound.uid, code=STALE_KEY.code, reason=reason, details=details)
        raise STALE_KEY(reason, cluster=peer.name)

    @contextmanager
    def open(self, live: Live, method: str = "") -> Iterator[None]:
        """Keep a call under watch, and say whose it is, while the context lasts; raises link/too-many-calls.

        Of calls that an agent has one of, a newer one ends the older.
        """
        # Once more: calls that were let in together did not see each other.
        self._check_count(live.peer.name)
        calls = self._live.setdefault(live.peer.name, set())
        live.method = method
        if method in ONE_EACH:
            for older in calls:
                if older.method == method and not older.cut.done():
                    older.cut.set_result(SUPERSEDED(f"cluster {live.peer.name} has opened a newer stream"))
        calls.add(live)
        self._new.add(live)
        token = _current.set(live.peer)
        try:
            yield
        finally:
            _current.reset(token)
            calls.discard(live)
            self._new.discard(live)
            if not calls and self._live.get(live.peer.name) is calls:
                del self._live[live.peer.name]

    async def tick(self) -> int:
        """Look at every open call again and cut those whose peer may no longer speak; returns how many were cut."""
        try:
            # A store that hangs must not keep expiry from being noticed.
            async with asyncio.timeout(self._view_age):
                await asyncio.shield(self._look())
        except Exception as error:  # noqa: BLE001 - whatever the store did, the tick of V4 goes on
            # New calls are refused meanwhile (admit asks again); what is open stays under what was last known.
            _log.warning("standing-unreadable", error=type(error).__name__)
        cut = 0
        for live in self._due():
            try:
                self._recheck(live)
                self._first_end = min(self._first_end, *(part.ends for part in live.proven.times))
            except CellwardError as error:
                if not live.cut.done():
                    live.cut.set_result(error)
                    cut += 1
                    _log.warning("call-cut", peer=str(live.peer.id), code=error.code)
        return cut

    def _due(self) -> Sequence[Live]:
        """Calls to look at: all when anything by which they are judged has changed, else those begun since.

        A fleet that is idle has thousands of streams open, and mostly nothing has changed; a certificate that ends is
        such a change.
        """
        new, self._new = self._new, set()
        now, judged_by = self._clock.now(), (self._standing, self._authorities())
        before = self._looked_by
        same = before is not None and before[0] is judged_by[0] and before[1] is judged_by[1]
        if same and now <= self._first_end:
            return list(new)
        self._looked_by, self._first_end = judged_by, _NEVER
        return [live for calls in self._live.values() for live in calls]

    def _recheck(self, live: Live) -> None:
        authorities, now = self._authorities(), self._clock.now()
        if authorities is not live.authorities:
            pem = live.proven.certificate_pem
            live.proven = self._proofs.prove(pem, authorities, now, self._trust_domain())
            live.authorities = authorities
        # Everything else in the certificate was proven and cannot change; its end and its issuer's can only come.
        for part in live.proven.times:
            if now > part.ends:
                raise EXPIRED(f"the peer's {part.what} was valid until {part.ends.isoformat()}")
        self.check_standing(live.peer)

    def is_calling(self, name: str) -> bool:
        """Whether a cluster has a call open."""
        return name in self._live

    def check_standing(self, peer: PeerIdentity) -> None:
        """Refuse who may not speak, as far as it is known; raises authority/locked, not-bound and replaced errors."""
        standing, name = self._standing, peer.name
        uid = standing.uids.get(name, "")
        lock = standing.locks.hit(cluster=name, uid=uid, serial=f"{peer.serial:x}", key=peer.spki_sha256)
        if lock is not None:
            raise LOCKED(f"{lock} is locked", cluster=name, lock=lock)
        if name in standing.removed:
            raise NOT_BOUND(f"cluster {name} was removed", cluster=name)
        if peer.generation < standing.floors.get(name, 0):
            raise REPLACED(f"generation {peer.generation} of {name} was replaced", cluster=name)

    def _check_count(self, name: str) -> None:
        if len(self._live.get(name, ())) >= self._calls_per_cluster:
            raise TOO_MANY_CALLS(f"cluster {name} has {self._calls_per_cluster} calls open", cluster=name)

    async def _commit(self, peer: PeerIdentity) -> ClusterRow | None:
        """A certificate counts from its first use, whatever it is used for: the one before renews no more (V7)."""
        binding = await self._directory.binding(peer.name)
        if binding is not None and binding.previous_spki_sha256 and binding.spki_sha256 == peer.spki_sha256:
            await self._directory.used(peer.name, peer.spki_sha256)
        return binding

    async def _refresh(self, age: float) -> None:
        """Read again what has changed, when the last read is so old; all who want that share one read."""
        if not self._outdated(age):
            return
        async with self._refreshing:
            if self._outdated(age):
                view = (self._stamp(), self._clock.monotonic())
                self._standing = await self._directory.standing()
                self._view = view

    def _look(self) -> asyncio.Future[None]:
        """A refresh that goes on when nobody waits for it: in a busy store one begun at each tick would never end."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._refresh(0.0))
            self._looking.add_done_callback(heard)
        return self._looking

    def _outdated(self, age: float) -> bool:
        """A change is seen by the stamp, also one of another process; the clock is for what nobody announced."""
        if self._view is None:
            return True
        stamp, at = self._view
        return self._clock.monotonic() - at >= (self._poll if stamp == self._stamp() else age)


class PeerProofs:
    """What the certificates of open calls prove; ``prove`` answers as ``prove_peer`` does, and cheaply the next time.

    A proof is found by the exact bytes of the certificate and the trust domain, and lives as long as somebody holds it;
    when the authorities are another object, all of them are forgotten. Refusals are never remembered.
    """

    def __init__(self) -> None:
        self._authorities: Sequence[x509.Certificate] | None = None
        self._known: WeakValueDictionary[tuple[bytes, str], ProvenPeer] = WeakValueDictionary()

    def prove(
        self, pem: bytes, authorities: Sequence[x509.Certificate], now: datetime, trust_domain: str
    ) -> ProvenPeer:
        """Check a certificate of an agent whole; raises what ``prove_peer`` raises."""
        if authorities is not self._authorities:
            self._authorities = authorities
            self._known.clear()
        known = self._known.get((pem, trust_domain))
        if known is None:
            known = prove_peer(pem, authorities, now, trust_domain, "agent")
            self._known[pem, trust_domain] = known
        else:
            check_times(known.times, now)
        return known


def check_transport(auth: AuthContext) -> None:
    """Refuse a connection older than TLS 1.3 or resumed; raises link/weak-transport, link/resumed-session."""
    if _only(auth, "ssl_tls_version") != b"TLSv1.3":
        raise WEAK_TRANSPORT("the connection is older than TLS 1.3")
    if _only(auth, "ssl_session_reused") != b"false":
        raise RESUMED_SESSION("the connection resumes an earlier TLS session")


def _only(auth: AuthContext, name: str) -> bytes:
    values = tuple(auth.get(name, ()))
    if len(values) != 1:
        if name == "x509_pem_cert":
            raise NO_CERTIFICATE("the connection shows no client certificate")
        raise WEAK_TRANSPORT(f"the connection does not say {name}")
    return values[0]
