"""Recovery: an agent that was away longer than its certificate comes back by its bound key, and nobody else does."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cellward.errors import CellwardError
from cellward.identity import keys
from cellward.identity.recovery import sign_recovery
from cellward.identity.x509 import PeerIdentity, make_csr, verify_peer
from hub.authority.model import AgentCertificate, Attempt, Joined, RecoveryAttempt
from hub.authority.service import RENEWALS
from tests.fakes.authority import REALM, FakeHub
from tests.fakes.clock import ManualClock
from tests.fakes.refusals import refused

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
UID = "6f9619ff-8b86-4011-b42d-00c04fc964ff"
WEEK = 7 * 24 * 3600.0


class Away:
    """An agent that joined and then was away."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW)
        self.hub = FakeHub(self.clock)
        self.hub.clusters.create("eu-1")
        self.key = keys.new_tls_key()
        self.next = keys.new_tls_key()

    async def join(self) -> AgentCertificate:
        """Join a week ago."""
        statement = keys.spki_of(keys.new_signing_key())
        token = await self.hub.join_tokens.mint("eu-1")
        attempt = Attempt(token, make_csr(self.key), REALM, UID, statement, "192.0.2.1")
        certificate = (await self.hub.identity.join(attempt)).certificate
        self.clock.advance(WEEK)
        return certificate

    async def challenged(self, **more: object) -> RecoveryAttempt:
        """A request with its nonce signed by the key the agent holds."""
        asked = RecoveryAttempt(UID, make_csr(self.next), "192.0.2.1")
        nonce = await self.hub.identity.recover(asked)
        assert isinstance(nonce, bytes)
        signature = sign_recovery(self.key, nonce, REALM, UID, keys.spki_of(self.next))
        signed = replace(asked, nonce=nonce, signature=signature, bound_spki_der=keys.spki_of(self.key))
        return replace(signed, **more)  # type: ignore[arg-type]

    async def recover(self, **more: object) -> Joined:
        """Recover; raises what is refused."""
        answer = await self.hub.identity.recover(await self.challenged(**more))
        assert isinstance(answer, Joined)
        return answer

    async def refused(self, **more: object) -> str:
        """Code with which it is refused."""
        before = self.hub.clusters.rows["eu-1"]
        with pytest.raises(CellwardError) as refusal:
            await self.recover(**more)
        assert self.hub.clusters.rows["eu-1"] == before
        return refusal.value.code

    def peer(self, certificate: AgentCertificate) -> PeerIdentity:
        """Identity the certificate proves."""
        leaf = certificate.chain_pem.split(b"-----END CERTIFICATE-----\n")[0] + b"-----END CERTIFICATE-----\n"
        authority = self.hub.authority
        return verify_peer(leaf, authority.agent_authorities, self.clock.now(), authority.trust_domain(), "agent")


@pytest.fixture
async def away() -> Away:
    """A week later."""
    made = Away()
    await made.join()
    return made


async def test_v7_the_bound_key_recovers_the_next_generation_and_it_is_recorded(away: Away) -> None:
    """The name and uid are those bound; the new key is bound, the old one may ask again for the same key only."""
    joined = await away.recover()
    peer = away.peer(joined.certificate)
    assert (joined.cluster, peer.name, peer.generation) == ("eu-1", "eu-1", 2)
    assert peer.spki_sha256 == keys.spki_digest(keys.spki_of(away.next))
    assert (await away.recover()).certificate.generation == 2
    entries = [each for each in away.hub.audit.entries if each.action == "certificate.recover"]
    assert [(each.decision, each.object, each.actor) for each in entries] == [
        ("allow", "Cluster//eu-1", "address:192.0.2.1")
    ] * 2
    # It is the identity that is renewed from now on.
    await away.hub.clusters.used("eu-1", peer.spki_sha256)
    assert (await away.hub.identity.renew(peer, make_csr(keys.new_tls_key()))).generation == 3


async def test_v7_an_answer_to_a_renewal_that_was_lost_before_the_outage_is_given_again(away: Away) -> None:
    """The hub certified the next key, the agent never heard of it: its old key recovers for the same new key."""
    made = Away()
    certificate = await made.join()
    made.clock.advance(-WEEK)
    await made.hub.identity.renew(made.peer(certificate), make_csr(made.next))
    made.clock.advance(WEEK)
    assert (await made.recover()).certificate.generation == 2
    assert made.hub.clusters.locks == []


async def test_v3_no_other_key_and_no_other_signature_recovers(away: Away) -> None:
    """V3: unknown key, or a signature over something else: one and the same refusal, so nobody learns who is known."""
    thief = keys.new_tls_key()
    asked = await away.challenged()
    spki, nonce = keys.spki_of(away.next), asked.nonce
    assert await away.refused(bound_spki_der=keys.spki_of(thief)) == "authority/not-recovered"
    stolen_uid = replace(
        asked, bound_spki_der=keys.spki_of(thief), signature=sign_recovery(thief, nonce, REALM, UID, spki)
    )
    other_realm = replace(asked, signature=sign_recovery(away.key, nonce, "sha256:" + "0" * 64, UID, spki))
    other_key = replace(asked, signature=sign_recovery(away.key, nonce, REALM, UID, keys.spki_of(thief)))
    plain = replace(
        asked, signature=away.key.sign(nonce + REALM.encode() + UID.encode() + spki, ec.ECDSA(hashes.SHA256()))
    )
    for each in (stolen_uid, other_realm, other_key, plain, replace(asked, signature=b"x")):
        with pytest.raises(CellwardError) as refusal:
            await away.hub.identity.recover(each)
        assert refusal.value.code == "authority/not-recovered"
    # Nobody who proved nothing locks anybody.
    assert away.hub.clusters.locks == []


async def test_v6_a_nonce_is_for_one_request_for_a_minute_and_from_this_hub(away: Away) -> None:
    """V6: a nonce taken for another key, an old one, a made-up one: refused before any signature is looked at."""
    asked = await away.challenged()
    for changed in (
        replace(asked, csr_der=make_csr(keys.new_tls_key())),
        replace(asked, cluster_uid="7" + UID[1:]),
        replace(asked, nonce=bytes(48)),
        replace(asked, nonce=asked.nonce[:-1]),
    ):
        with pytest.raises(CellwardError) as refusal:
            await away.hub.identity.recover(changed)
        assert refusal.value.code == "authority/bad-recovery"
    away.clock.advance(61)
    with pytest.raises(CellwardError) as refusal:
        await away.hub.identity.recover(asked)
    assert refusal.value.code == "authority/bad-recovery"


@pytest.mark.parametrize("kind", ["agent", "cluster", "serial", "key"])
async def test_v4_whoever_is_locked_does_not_recover(away: Away, kind: str) -> None:
    """V4: each kind of lock holds at this door as well, and lifting it is enough."""
    row = away.hub.clusters.rows["eu-1"]
    subject = {"agent": UID, "cluster": "eu-1", "serial": row.serial, "key": row.spki_sha256}[kind]
    away.hub.clusters.lock_by(f"{kind}/{subject}")
    assert await away.refused() == "authority/locked"
    away.hub.clusters.locks.clear()
    assert (await away.recover()).cluster == "eu-1"


async def test_v4_removed_replaced_and_long_lost_agents_do_not_recover(away: Away) -> None:
    """V4, V7: who was decommissioned, whose certificates were taken out of force, and who was away for a season."""
    rows = away.hub.clusters.rows
    kept = rows["eu-1"]
    rows["eu-1"] = replace(kept, removed_at=NOW)
    assert await away.refused() == "authority/not-bound"
    rows["eu-1"] = replace(kept, generation_floor=kept.generation + 1)
    assert await away.refused() == "authority/replaced"
    rows["eu-1"] = replace(kept, bound_at=away.clock.now() - timedelta(days=91))
    assert await away.refused() == "authority/not-recovered"


async def test_v6_recoveries_of_one_cluster_are_counted(away: Away) -> None:
    """V6: a key that recovers without end is told to wait, and comes back when it did."""
    for _ in range(int(RENEWALS.burst)):
        await away.recover()
    assert await away.refused() == "authority/too-many-attempts"
    away.clock.advance(1 / RENEWALS.per_second)
    await away.recover()


async def test_v7_a_second_new_key_at_recovery_locks_both(away: Away) -> None:
    """V7: two holders of the bound key come back from the outage, each with a key of its own."""
    await away.recover()
    away.next = keys.new_tls_key()
    assert await away.refused() == "authority/stale-key"
    assert [str(lock) for lock in away.hub.clusters.locks] == [f"agent/{UID}"]


async def test_v6_strangers_are_bounded_as_at_the_other_door(away: Away) -> None:
    """V6: ten wrong signatures of one address and it waits; an address that did nothing wrong does not."""
    asked = await away.challenged(signature=b"x")
    for _ in range(10):
        with refused("authority/not-recovered"):
            await away.hub.identity.recover(asked)
    assert len([each for each in away.hub.audit.entries if each.decision == "deny"]) == 10
    with pytest.raises(CellwardError) as refusal:
        await away.hub.identity.recover(asked)
    assert refusal.value.code == "authority/too-many-attempts"
    assert len([each for each in away.hub.audit.entries if each.decision == "deny"]) == 10
    assert isinstance(await away.hub.identity.recover(replace(asked, nonce=b"", address="192.0.2.2")), bytes)
