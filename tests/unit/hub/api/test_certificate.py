"""The API's certificate follows the hub's leaf, whatever happens on the way."""

from __future__ import annotations

import asyncio
import ssl

import structlog

from cellward.identity import contexts
from cellward.runtime.clock import SystemClock
from cellward.runtime.health import HealthRegistry
from hub.api.certificate import ApiCertificate
from hub.authority.model import HubLeaf
from tests.fakes.authority import FakeHub
from tests.fakes.bare_agent import until


async def _shown(certificate: ApiCertificate, authority: bytes) -> bytes:
    """What a new connection is shown, DER."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=certificate.context)
    async with server:
        host, port = server.sockets[0].getsockname()
        client = contexts.client_context(authority)
        _, writer = await asyncio.open_connection(host, port, ssl=client, server_hostname="127.0.0.1")
        found: ssl.SSLSocket = writer.get_extra_info("ssl_object")
        der = found.getpeercert(binary_form=True)
        writer.close()
    assert der is not None
    return der


async def test_a_leaf_that_cannot_be_shown_is_told_and_tried_again() -> None:
    """One failure must not let the API's certificate expire in silence: it is a condition, and the next try may do."""
    hub = FakeHub(SystemClock())
    health = HealthRegistry()
    leaves = [hub.authority.issue_hub(ips=("127.0.0.1",)) for _ in range(2)]
    broken = HubLeaf(leaves[0].key_pem, leaves[1].chain_pem, leaves[1].not_before, leaves[1].not_after)
    current = [leaves[0]]
    certificate = ApiCertificate(lambda: current[0], health)
    first = await _shown(certificate, hub.authority.hub_ca_pem)
    stop = asyncio.Event()
    with structlog.testing.capture_logs() as logs:
        following = asyncio.create_task(certificate.follow(stop, 0.01))
        current[0] = broken
        await until(lambda: any(not each.ok for each in health.get()), "the failure is a condition")
        assert await _shown(certificate, hub.authority.hub_ca_pem) == first
        current[0] = leaves[1]
        await until(lambda: all(each.ok for each in health.get()), "the next try does")
        stop.set()
        await following
    assert any(entry["event"] == "api-certificate-failed" for entry in logs)
    assert await _shown(certificate, hub.authority.hub_ca_pem) != first
