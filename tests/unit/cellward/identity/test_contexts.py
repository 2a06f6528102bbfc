"""TLS contexts: TLS 1.3 only, our authorities only, certificates that swap on a live context."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime

import pytest

from cellward.errors import CellwardError
from cellward.identity.contexts import client_context, load_leaf, server_context
from tests.fakes.authority import FakeHub
from tests.fakes.clock import ManualClock
from tests.fakes.refusals import refused


async def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "hub.cellward.internal") -> bytes:
    """One handshake on loopback; returns the server's certificate, DER."""

    async def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listener = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=server)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=name)
        connection = writer.get_extra_info("ssl_object")
        assert connection.version() == "TLSv1.3"
        certificate: bytes = connection.getpeercert(binary_form=True)
        writer.close()
        return certificate


def hub() -> FakeHub:
    """A hub whose certificates are valid now."""
    return FakeHub(ManualClock(datetime.now(UTC)))


async def test_a_client_trusts_the_hubs_authority_and_sees_a_swapped_leaf() -> None:
    """V5: the API's certificate follows the hub's leaf without a restart."""
    here = hub()
    first, second = here.authority.issue_hub(), here.authority.issue_hub()
    server = server_context(first.chain_pem, first.key_pem)
    client = client_context(here.authority.hub_ca_pem)
    before = await handshake(server, client)
    load_leaf(server, second.chain_pem, second.key_pem)
    assert await handshake(server, client) != before


async def test_another_authority_or_name_is_refused() -> None:
    """Neither a stranger's authority nor the agents' own one vouches for a hub; nor is any name good."""
    here = hub()
    leaf = here.authority.issue_hub()
    server = server_context(leaf.chain_pem, leaf.key_pem)
    for pem, name in (
        (hub().authority.hub_ca_pem, "hub.cellward.internal"),
        (here.authority.agent_ca_pem, "hub.cellward.internal"),
        (here.authority.hub_ca_pem, "other.cellward.internal"),
    ):
        with pytest.raises(ssl.SSLCertVerificationError):
            await handshake(server, client_context(pem), name)


async def test_tls_1_2_is_refused() -> None:
    """Nothing older than TLS 1.3."""
    here = hub()
    leaf = here.authority.issue_hub()
    client = client_context(here.authority.hub_ca_pem)
    client.minimum_version = ssl.TLSVersion.TLSv1_2
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await handshake(server_context(leaf.chain_pem, leaf.key_pem), client)


def test_v16_unreadable_pem_is_refused_by_code() -> None:
    """V16: and a key of another certificate too."""
    here = hub()
    one, two = here.authority.issue_hub(), here.authority.issue_hub()
    for chain, key in ((b"", b""), (b"garbage", one.key_pem), (one.chain_pem, two.key_pem)):
        with pytest.raises(CellwardError) as refusal:
            server_context(chain, key)
        assert refusal.value.code == "identity/bad-certificate"
    with refused("identity/bad-certificate"):
        client_context(b"garbage")
