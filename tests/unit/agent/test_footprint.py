"""What an agent has in memory for as long as it lives: imports, and what each connection to the API server costs."""

from __future__ import annotations

import subprocess
import sys
from asyncio import sslproto
from pathlib import Path

from agent.kube import tls

_ROOT = Path(__file__).resolve().parents[3]
#: Packages and modules that nothing of an agent uses; each was loaded once because something else is beside it.
_NOT_NEEDED = (
    "aiohttp.web",
    "dotenv",
    "hub",
    "kubernetes.aio.dynamic",
    "kubernetes.aio.stream",
    "kubernetes.client",
    "oauthlib",
    "pygments",
    "requests",
    "rich",
    "sqlalchemy",
    "websocket",
)
_LOADED = """
import sys
import agent.__main__, agent.app
from agent.kube.library import load_library
load_library()
print("\\n".join(sorted(sys.modules)))
"""


def test_an_agent_loads_nothing_that_it_does_not_use() -> None:
    """A process with all that ours imports at its start and at its first connection."""
    shown = subprocess.run(
        [sys.executable, "-c", _LOADED], cwd=_ROOT, env={"PYTHONPATH": str(_ROOT)}, capture_output=True, check=True
    )
    loaded = shown.stdout.decode().split()
    assert "kubernetes.aio.client.api_client" in loaded
    assert [name for name in _NOT_NEEDED if name in loaded] == []


def test_a_tls_connection_costs_little() -> None:
    """What asyncio fills for each connection when it is made; an agent has one for each kind that it watches."""
    before = sslproto.SSLProtocol.max_size
    try:
        tls.use_small_buffers()
        made = sslproto.SSLProtocol.__new__(sslproto.SSLProtocol)
        assert made.max_size == tls.TLS_BUFFER <= 64 * 1024
    finally:
        sslproto.SSLProtocol.max_size = before
