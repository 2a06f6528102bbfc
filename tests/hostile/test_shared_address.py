"""A stranger behind the same address as honest agents (NAT, a load balancer) tries tokens and keys without end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from cellward.identity import keys
from cellward.identity.recovery import sign_recovery
from cellward.identity.x509 import make_csr
from cellward.runtime.clock import SystemClock
from cellward.wire.v1 import enrolment_pb2, enrolment_pb2_grpc
from hub.authority.limits import JoinLimits, Rate
from hub.sync.limits import SyncLimits
from tests.fakes.authority import REALM
from tests.fakes.bare_agent import BareAgent, failure
from tests.fakes.ports import FakeLinkHub

_NAME = [("grpc.ssl_target_name_override", "hub.cellward.internal")]
_TOO_MANY = (grpc.StatusCode.RESOURCE_EXHAUSTED, "authority/too-many-attempts")
#: Bounds that do not refill while a test runs.
LIMITS = {"attempts": Rate(30, 1e-9), "failures": Rate(3, 1e-9), "holders": Rate(4, 1e-9)}


@pytest.fixture
async def here() -> AsyncIterator[FakeLinkHub]:
    """A hub on loopback, where everybody has one address."""
    hub = FakeLinkHub(SystemClock(), SyncLimits())
    hub.hub.identity._limits = JoinLimits(hub.clock, **LIMITS)
    async with hub.running():
        yield hub


async def exhausted(here: FakeLinkHub) -> None:
    """Use up all that the address may try."""
    for number in range(40):
        outcome = await failure(BareAgent("x").join(here, f"cwj_{number:064x}"))
    assert outcome == _TOO_MANY


class Recovery:
    """What one agent asks for to come back; ``signer`` is whose key signs, by default the bound one."""

    def __init__(self, agent: BareAgent, signer: BareAgent | None = None) -> None:
        self._agent = agent
        self._signer = (signer or agent).key
        self._spki = keys.spki_of(key := keys.new_tls_key())
        self._csr = make_csr(key)

    def request(self, nonce: bytes = b"") -> enrolment_pb2.RecoverRequest:
        """Ask for a nonce, or with one for a certificate."""
        uid = self._agent.uid
        request = enrolment_pb2.RecoverRequest(cluster_uid=uid, csr_der=self._csr, nonce=nonce)
        if nonce:
            request.signature = sign_recovery(self._signer, nonce, REALM, uid, self._spki)
            request.bound_spki_der = keys.spki_of(self._agent.key)
        return request


async def test_v6_a_live_token_joins_from_an_address_a_stranger_has_used_up(here: FakeLinkHub) -> None:
    """V6: what strangers tried counts for those who show nothing; a token that has expired or is made up is nothing."""
    token, other = await here.invite("eu-1"), await here.invite("us-1")
    await exhausted(here)
    assert (await BareAgent("eu-1").join(here, token)).cluster_name == "eu-1"
    rows = here.hub.tokens.rows
    for hashed, (cluster, _, spent) in tuple(rows.items()):
        rows[hashed] = (cluster, here.clock.now(), spent)
    assert await failure(BareAgent("us-1").join(here, other)) == _TOO_MANY
    assert await failure(BareAgent("x").join(here, "cwj_" + "0" * 64)) == _TOO_MANY


async def test_v16_a_live_token_has_a_bound_of_its_own_there(here: FakeLinkHub) -> None:
    """V16: whoever has one token tries no more often with it than others, and keeps no other token's holder out."""
    token, other = await here.invite("eu-1"), await here.invite("us-1")
    await exhausted(here)
    codes = [(await failure(BareAgent("x").join(here, token, realm="sha256:" + "0" * 64)))[1] for _ in range(6)]
    assert codes == ["authority/wrong-realm"] * 4 + ["authority/too-many-attempts"] * 2
    assert (await BareAgent("us-1").join(here, other)).cluster_name == "us-1"


async def test_v7_a_bound_key_recovers_from_an_address_a_stranger_has_used_up(here: FakeLinkHub) -> None:
    """V7: an agent away for long comes back; who shows no bound key, or no nonce of this hub, is not looked at."""
    agent, stranger = BareAgent("eu-1"), BareAgent("x")
    await agent.join(here, await here.invite("eu-1"))
    await exhausted(here)
    credentials = grpc.ssl_channel_credentials(here.hub.authority.hub_ca_pem)
    async with grpc.aio.secure_channel(here.enrolment.address, credentials, _NAME) as channel:
        stub = enrolment_pb2_grpc.EnrolmentStub(channel)
        for other in (Recovery(stranger), Recovery(agent, stranger)):
            nonce = (await stub.Recover(other.request())).nonce
            assert await failure(stub.Recover(other.request(nonce))) == _TOO_MANY
        mine = Recovery(agent)
        assert await failure(stub.Recover(mine.request(b"n" * len(nonce)))) == _TOO_MANY
        answer = await stub.Recover(mine.request((await stub.Recover(mine.request())).nonce))
    assert answer.identity.cluster_name == "eu-1"
