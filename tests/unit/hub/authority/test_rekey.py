"""Taking every certificate of a cluster out of force, on a store that has forgotten some of them (V7)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cellward.errors import CellwardError
from cellward.identity import keys
from cellward.identity.x509 import PeerIdentity, make_csr, verify_peer
from hub.authority.copies import Copies
from hub.authority.model import AgentCertificate, Attempt
from hub.authority.service import IdentityService
from hub.authority.tokens import JoinTokens
from hub.documents.realm import RealmService
from tests.fakes.authority import REALM, FakeHub
from tests.fakes.clock import ManualClock
from tests.fakes.rooms import make_rooms
from tests.fakes.signed import Keys, new_root
from tests.fakes.store import scratch_store

UID = "6f9619ff-8b86-4011-b42d-00c04fc964ff"


def _peer(hub: FakeHub, certificate: AgentCertificate) -> PeerIdentity:
    end = b"-----END CERTIFICATE-----\n"
    leaf = certificate.chain_pem.split(end)[0] + end
    return verify_peer(leaf, hub.authority.agent_authorities, hub.clock.now(), hub.authority.trust_domain(), "agent")


async def test_v7_certificates_that_a_restored_store_forgot_are_out_of_force_too() -> None:
    """V7: `unlock --rekey` ends every certificate the two had, and the right one joins again."""
    clock = ManualClock(datetime(2026, 11, 23, 12, 0, tzinfo=UTC))
    hub, store = FakeHub(clock), scratch_store(clock)
    tokens = JoinTokens(store.tokens, clock)
    clusters = make_rooms(store, RealmService(store.meta), clock, Keys(new_root()[1])).clusters
    identity = IdentityService(
        authority=hub.authority,
        tokens=tokens,
        store=store,
        locks=hub.clusters,
        copies=Copies(store, clock),
        clock=clock,
    )
    statement = keys.spki_of(keys.new_signing_key())

    async def join() -> AgentCertificate:
        token = await tokens.mint("eu-1")
        given = Attempt(token, make_csr(keys.new_tls_key()), REALM, UID, statement, "192.0.2.1")
        return (await identity.join(given)).certificate

    async def renewed(old: AgentCertificate) -> AgentCertificate:
        return await identity.renew(_peer(hub, old), make_csr(keys.new_tls_key()))

    await clusters.create_cluster("eu-1", "test")
    held = await join()
    backup = await store.clusters.get("eu-1")
    assert backup is not None
    for _ in range(3):
        held = await renewed(held)
    await store.clusters.bind(
        "eu-1", backup.uid, backup.spki_sha256, backup.statement_spki, backup.generation, backup.serial
    )
    floor = await clusters.retire_certificates("eu-1")
    with pytest.raises(CellwardError) as caught:
        await renewed(held)
    assert caught.value.code == "authority/replaced"
    again = await join()
    assert again.generation >= floor
    assert (await renewed(again)).generation == again.generation + 1
