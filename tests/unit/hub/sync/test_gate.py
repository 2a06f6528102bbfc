"""The gate: every call whole, every open call again (V3, V4)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cellward.errors import CellwardError, Unavailable
from cellward.identity import keys
from cellward.identity.x509 import PeerIdentity, ProvenPeer, Validity, prove_peer
from hub.clusters.directory import Directory
from hub.clusters.locks import LocksInForce
from hub.store.interfaces import LockRow
from hub.store.sql.store import open_store
from hub.sync.gate import PeerGate, current_peer
from hub.sync.interfaces import Standing
from tests.fakes.authority import FakeHub
from tests.fakes.clock import ManualClock
from tests.fakes.ports import FakeDirectory

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class Here:
    """A gate over fakes, and what gRPC would say of a good connection."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW)
        self.hub = FakeHub(self.clock)
        self.hub.clusters.create("eu-1")
        self.changes = 0
        self.hub.clusters.on_change.append(self._changed)
        self.authorities = self.hub.authority.agent_authorities
        self.gate = PeerGate(
            authorities=lambda: self.authorities,
            trust_domain=self.hub.authority.trust_domain,
            directory=FakeDirectory(self.hub.clusters),
            stamp=lambda: self.changes,
            clock=self.clock,
            calls_per_cluster=2,
        )
        chain = self.hub.authority.issue_agent("eu-1", keys.spki_of(keys.new_tls_key()), 1).chain_pem
        leaf = chain[: chain.index(b"-----END CERTIFICATE-----") + 26]
        self.auth: dict[str, list[bytes]] = {
            "ssl_tls_version": [b"TLSv1.3"],
            "ssl_session_reused": [b"false"],
            "x509_pem_cert": [leaf],
            "x509_common_name": [b"us-1"],
            "peer_spiffe_id": [b"spiffe://x/agent/us-1"],
        }

    def _changed(self) -> None:
        self.changes += 1

    def count_reads(self) -> list[str]:
        """Count how often the gate asks who may not speak, from now on."""
        reads: list[str] = []
        standing = self.gate._directory.standing

        async def counted() -> Standing:
            reads.append("read")
            await asyncio.sleep(0)
            return await standing()

        self.gate._directory.standing = counted  # type: ignore[method-assign]
        return reads


async def test_v3_the_identity_is_the_certificate_and_nothing_else_grpc_says() -> None:
    """V3: other properties of the connection are not read."""
    here = Here()
    live = await here.gate.admit(here.auth)
    with here.gate.open(live):
        assert current_peer().name == "eu-1"
    with pytest.raises(LookupError):
        current_peer()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ssl_tls_version": [b"TLSv1.2"]}, "link/weak-transport"),
        ({"ssl_tls_version": []}, "link/weak-transport"),
        ({"ssl_session_reused": [b"true"]}, "link/resumed-session"),
        ({"ssl_session_reused": []}, "link/weak-transport"),
        ({"x509_pem_cert": []}, "link/no-certificate"),
        ({"x509_pem_cert": [b"garbage"]}, "identity/bad-certificate"),
    ],
)
async def test_v4_a_connection_that_is_not_whole_is_refused(change: dict[str, list[bytes]], code: str) -> None:
    """V4: TLS 1.3, a full handshake, one certificate; what is missing counts against the peer."""
    here = Here()
    with pytest.raises(CellwardError) as refusal:
        await here.gate.admit({**here.auth, **change})
    assert refusal.value.code == code


async def test_v16_the_tick_goes_on_whatever_the_store_did() -> None:
    """V4, V16: an error nobody foresaw must not end the timer that notices expiry."""
    here = Here()
    live = await here.gate.admit(here.auth)

    async def broken() -> Standing:
        raise RuntimeError("a mistake")

    here.gate._directory.standing = broken  # type: ignore[method-assign]
    with here.gate.open(live):
        here.clock.advance(2 * 3600)
        assert await here.gate.tick() == 1
    assert live.cut.result().code == "identity/expired"


async def test_v4_open_calls_are_cut_when_the_certificate_ends() -> None:
    """V4: not a second later than the tick after its end."""
    here = Here()
    live = await here.gate.admit(here.auth)
    with here.gate.open(live):
        here.clock.advance(3600)
        assert await here.gate.tick() == 0
        here.clock.advance(1)
        assert await here.gate.tick() == 1
        assert live.cut.result().code == "identity/expired"
        assert await here.gate.tick() == 0
    assert await here.gate.tick() == 0


async def test_v4_a_tick_looks_at_all_only_when_something_changed_and_always_at_who_is_new() -> None:
    """V4: an idle fleet costs nothing twice a second; a lock, an end and a newcomer are seen by the next tick."""
    here, looks = Here(), []
    checked = here.gate.check_standing

    def counted(peer: PeerIdentity) -> None:
        looks.append(peer.name)
        checked(peer)

    first, second = [await here.gate.admit(here.auth) for _ in range(2)]
    here.gate.check_standing = counted  # type: ignore[method-assign]
    with here.gate.open(first):
        for _ in range(5):
            assert await here.gate.tick() == 0
        assert len(looks) == 1
        # Admitted before the last look, opened after it: nobody has seen it yet.
        with here.gate.open(second):
            assert await here.gate.tick() == 0
            assert len(looks) == 2
            here.hub.clusters.lock("eu-1")
            assert await here.gate.tick() == 2
    assert first.cut.result().code == second.cut.result().code == "authority/locked"


async def test_v4_open_calls_are_cut_when_their_authority_goes() -> None:
    """V4: the chain is checked again when the authorities change; a bundle that still has the old one cuts nobody."""
    here, other = Here(), Here()
    live = await here.gate.admit(here.auth)
    with here.gate.open(live):
        here.authorities = (*other.authorities, *here.authorities)
        assert await here.gate.tick() == 0
        here.authorities = other.authorities
        assert await here.gate.tick() == 1
        assert live.cut.result().code == "identity/untrusted"


async def test_v4_a_lock_cuts_open_calls_and_refuses_new_ones_within_the_age_of_the_view() -> None:
    """V4: the lock is seen by the next tick, and by a new call at the latest when the view is half a second old."""
    here = Here()
    live = await here.gate.admit(here.auth)
    with here.gate.open(live):
        here.hub.clusters.lock("eu-1")
        here.clock.advance(0.5)
        with pytest.raises(CellwardError) as refusal:
            await here.gate.admit(here.auth)
        assert refusal.value.code == "authority/locked"
        assert await here.gate.tick() == 1
        assert live.cut.result().code == "authority/locked"


async def test_v7_a_generation_below_the_floor_is_cut_and_refused() -> None:
    """V7: the certificate of a replaced installation ends with the replacement, not with its hour."""
    here = Here()
    live = await here.gate.admit(here.auth)
    with here.gate.open(live):
        await here.hub.clusters.bind("eu-1", "uid", "k", b"", 2, "1", generation_floor=1)
        assert await here.gate.tick() == 0
        await here.hub.clusters.bind("eu-1", "uid", "k", b"", 2, "1", generation_floor=2)
        assert await here.gate.tick() == 1
        assert live.cut.result().code == "authority/replaced"
    assert await _refusal(here) == "authority/replaced"


async def test_who_may_not_speak_is_read_when_it_changed_and_once_for_all_who_ask() -> None:
    """V4: a thousand calls at once cost one read, a quiet second none; what nobody told is found by a slow poll."""
    here = Here()
    reads = here.count_reads()
    await asyncio.gather(*(here.gate.admit(here.auth) for _ in range(20)))
    assert len(reads) == 1
    for _ in range(5):
        here.clock.advance(0.5)
        await here.gate.tick()
        await here.gate.admit(here.auth)
    assert len(reads) == 1
    here.hub.clusters.create("us-1")
    here.changes += 1
    here.clock.advance(0.5)
    await asyncio.gather(*(here.gate.admit(here.auth) for _ in range(20)))
    assert len(reads) == 2
    here.clock.advance(5)
    await here.gate.tick()
    assert len(reads) == 3


async def test_v4_a_lock_by_another_process_is_told_and_not_waited_for(tmp_path: Path) -> None:
    """V4: the slow poll is only a backstop, its clock stands still here: the store tells what others wrote."""
    here = Here()
    url = f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}"
    ours, theirs = await open_store(url, here.clock), await open_store(url, here.clock)
    await ours.clusters.create("eu-1", "alice")
    here.gate._directory = Directory(ours.clusters, LocksInForce(ours.locks, ours.changes), ours.changes)
    here.gate._stamp = lambda: ours.changes.stamp("clusters")
    watch = asyncio.create_task(ours.watch())
    live = await here.gate.admit(here.auth)
    with here.gate.open(live):
        await theirs.locks.put(LockRow("cluster", "eu-1", "stolen", NOW, "alice"))
        async with asyncio.timeout(30):
            while not await here.gate.tick():
                await asyncio.sleep(0.01)
    assert live.cut.result().code == "authority/locked"
    assert await _refusal(here) == "authority/locked"
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    await ours.close()
    await theirs.close()


async def test_v4_a_read_that_takes_longer_than_a_tick_counts_when_it_is_done() -> None:
    """V4: in a store that is kept busy a read begun anew at each tick would always be the last in the queue."""
    here = Here()
    here.gate._view_age = 0.01
    live = await here.gate.admit(here.auth)
    standing, turn, begun = here.gate._directory.standing, asyncio.Event(), 0

    async def queued() -> Standing:
        nonlocal begun
        begun += 1
        await turn.wait()
        return await standing()

    here.gate._directory.standing = queued  # type: ignore[method-assign]
    here.hub.clusters.lock("eu-1")
    here.clock.advance(0.5)
    with here.gate.open(live):
        assert [await here.gate.tick() for _ in range(3)] == [0, 0, 0]
        assert begun == 1
        turn.set()
        async with asyncio.timeout(30):
            while not await here.gate.tick():
                await asyncio.sleep(0)
    assert live.cut.result().code == "authority/locked"


async def test_v4_locks_that_cannot_be_read_refuse_new_calls_and_do_not_hide_expiry() -> None:
    """V4: a store that fails does not open a door, and does not stop the clock."""
    here = Here()
    live = await here.gate.admit(here.auth)

    async def broken() -> Standing:
        raise Unavailable("store/unavailable", "", "no disk", "", {})

    here.gate._directory.standing = broken  # type: ignore[method-assign]
    here.clock.advance(3601)
    with here.gate.open(live):
        assert await here.gate.tick() == 1
        assert live.cut.result().code == "identity/expired"
    fresh = Here()
    fresh.gate._directory.standing = broken  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await fresh.gate.admit(fresh.auth)


async def test_open_calls_of_one_cluster_are_counted_and_forgotten() -> None:
    """The bound is on what is open now; nothing is kept of what has ended."""
    here = Here()
    one, two = await here.gate.admit(here.auth), await here.gate.admit(here.auth)
    with here.gate.open(one), here.gate.open(two):
        with pytest.raises(CellwardError) as refusal:
            await here.gate.admit(here.auth)
        assert refusal.value.code == "link/too-many-calls"
    await here.gate.admit(here.auth)
    assert here.gate._live == {}


async def test_v4_what_is_remembered_of_an_open_call_never_outlives_what_a_new_check_would_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """V4: the signature of a certificate in use is checked once; its times, authorities and domain at every call."""
    here, other, checks = Here(), Here(), []

    def counted(*given: Any) -> ProvenPeer:
        checks.append(given)
        return prove_peer(*given)

    monkeypatch.setattr("hub.sync.gate.prove_peer", counted)
    first = await here.gate.admit(here.auth)
    with here.gate.open(first):
        assert (await here.gate.admit(here.auth)).peer == first.peer
        assert len(checks) == 1
        assert await _refusal(here, x509_pem_cert=other.auth["x509_pem_cert"]) == "identity/untrusted"
        here.clock.advance(-301)
        assert await _refusal(here) == "identity/expired"
        here.clock.advance(301 + 3601)
        assert await _refusal(here) == "identity/expired"
        here.clock.advance(-3601)
        here.authorities = other.authorities
        assert await _refusal(here) == "identity/untrusted"
        here.authorities = here.hub.authority.agent_authorities
        await here.gate.admit(here.auth)
        here.gate._trust_domain = lambda: "another.cellward"
        assert await _refusal(here) == "identity/wrong-identity"


async def test_nothing_is_remembered_of_a_certificate_that_nobody_uses() -> None:
    """The memory is bounded by the calls that are open; refusals are never kept."""
    here = Here()
    live = await here.gate.admit(here.auth)
    assert await _refusal(here, x509_pem_cert=[b"garbage"]) == "identity/bad-certificate"
    assert len(here.gate._proofs._known) == 1
    del live
    assert len(here.gate._proofs._known) == 0


async def test_v4_open_calls_are_cut_when_their_authority_has_expired() -> None:
    """V4: an authority that ends takes its leaves along on open streams too, whatever they say of themselves."""
    here = Here()
    live = await here.gate.admit(here.auth)
    ends = NOW + timedelta(seconds=5)
    live.proven = replace(live.proven, times=(live.proven.times[0], Validity("authority", NOW, ends)))
    with here.gate.open(live):
        here.clock.advance(5)
        assert await here.gate.tick() == 0
        here.clock.advance(1)
        assert await here.gate.tick() == 1
        assert live.cut.result().code == "identity/expired"


async def _refusal(here: Here, **change: list[bytes]) -> str:
    """Code with which a call is refused."""
    with pytest.raises(CellwardError) as refusal:
        await here.gate.admit({**here.auth, **change})
    return refusal.value.code
