"""What the agent demands of an API server's certificate, on every Python: chain, time and name, not its form."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio import client as kubernetes_client

from agent.kube.client import KubeClient
from agent.kube.interfaces import ObjectRef
from cellward.errors import CellwardError
from tests.fakes.pki import Pki, demand_the_form
from tools.stack.credentials import write_kubeconfig

_REF = ObjectRef("v1", "Namespace", "", "default")


@pytest.fixture(autouse=True)
def _python_that_demands_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    demand_the_form(monkeypatch)


async def _answer(request: web.Request) -> web.Response:
    return web.json_response({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})


@asynccontextmanager
async def _server(pki: Pki) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_get("/{path:.*}", _answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.certificate, pki.key)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _asked(directory: Path, pki: Pki, trusted: Path) -> Any:
    async with _server(pki) as url:
        client = await KubeClient.connect(write_kubeconfig(directory / "config", url, trusted, pair=None, token="t"))
        try:
            return await client.get(_REF)
        finally:
            await client.close()


@pytest.mark.parametrize("shape", ["strict", "plain"])
async def test_certificates_of_the_field_are_taken(tmp_path: Path, shape: str) -> None:
    """A server whose certificates lack key identifiers and key usages is reached, as by any Kubernetes client."""
    pki = Pki.make(tmp_path / "pki", shape=shape)
    assert (await _asked(tmp_path, pki, pki.ca))["kind"] == "Namespace"


async def test_an_intermediate_authority_alone_is_enough(tmp_path: Path) -> None:
    """A kubeconfig that holds only the issuing authority is enough, on every Python."""
    pki = Pki.make(tmp_path / "pki", shape="intermediate")
    assert (await _asked(tmp_path, pki, pki.intermediate))["kind"] == "Namespace"


@pytest.mark.parametrize(
    ("shape", "said"),
    [("expired", "expired"), ("other-name", "IP address mismatch"), ("foreign", "signature")],
)
async def test_a_bad_certificate_is_named(tmp_path: Path, shape: str, said: str) -> None:
    """Expired, for another address, or of another authority: refused with a code that says it is the certificate."""
    pki = Pki.make(tmp_path / "pki", shape=shape)
    with pytest.raises(CellwardError) as caught:
        await _asked(tmp_path, pki, pki.ca)
    assert caught.value.code == "kube/bad-certificate"
    assert said in caught.value.message


def test_the_library_still_takes_its_context_from_where_we_change_it() -> None:
    """The client keeps its context where ``connect`` looks; if that moves, the test above would not see it."""
    assert isinstance(
        kubernetes_client.ApiClient(kubernetes_client.Configuration()).rest_client.ssl_context, ssl.SSLContext
    )
