"""A hub that is a process with few descriptors, and strangers at every listener of it."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.clock import a_second
from tools.stack.ports import free_ports

#: What the process may open: as many files as there are silent connections.
FILES = 1024
LISTENERS = ("api", "link", "enrolment", "metrics")
pytestmark = [pytest.mark.timeout(120), pytest.mark.xdist_group("small-hub")]


@dataclass
class Process:
    """A hub with its ports."""

    pid: int
    ports: dict[str, int]
    directory: Path

    def get(self, path: str) -> Any:
        """Ask the API as its admin, within a second, on a connection of its own."""
        headers = {"Authorization": "Bearer " + (self.directory / "admin.token").read_text().strip()}
        request = urllib.request.Request(f"https://localhost:{self.ports['api']}/v1{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=a_second(), context=self.context()) as answer:  # noqa: S310 - our own
            return json.loads(answer.read())

    def context(self) -> ssl.SSLContext:
        """Trust the hub's authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(str(self.directory / "ca.pem"))
        return context

    def connect(self, listener: str) -> socket.socket:
        """Connect and say nothing."""
        return socket.create_connection(("127.0.0.1", self.ports[listener]), timeout=5.0)

    def memory(self) -> int:
        """Resident memory, bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Run a hub that may open 1,024 files, with the limits it has by default."""
    directory = tmp_path_factory.mktemp("hub")
    ports = dict(zip(LISTENERS, free_ports(len(LISTENERS)), strict=True))
    config = {
        "data_dir": str(directory),
        "admin_token_file": str(directory / "admin.token"),
        "api_ca_file": str(directory / "ca.pem"),
        "listen": {name: f"127.0.0.1:{port}" for name, port in ports.items()},
    }
    (directory / "hub.yaml").write_text(yaml.safe_dump(config))
    command = f"ulimit -n {FILES} && exec {sys.executable} -m hub run --config {directory / 'hub.yaml'}"
    with (directory / "log").open("wb") as log:
        child = subprocess.Popen(["/bin/sh", "-c", command], stdout=log, stderr=log)
        try:
            running = Process(child.pid, ports, directory)
            _until(lambda: bool(running.get("/status")))
            yield running
        finally:
            child.terminate()
            child.wait(30)


def _until(probe: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if probe():
                return
        except OSError:
            if time.monotonic() > end:
                raise
        if time.monotonic() > end:
            raise AssertionError("it did not come to that")
        time.sleep(0.1)


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["silent", "half-handshake"])
def test_v16_a_thousand_strangers_at_each_listener_stop_none(hub: Process, said: bytes) -> None:
    """An honest call within a second, the link still accepts, and memory stays; the bounds are a red line."""
    before = hub.memory()
    with ExitStack() as stack:
        for listener in LISTENERS:
            for _ in range(1000):
                connection = stack.enter_context(hub.connect(listener))
                if said:
                    try:
                        connection.sendall(said)
                    except OSError:
                        continue
        began = time.monotonic()
        components = hub.get("/status")["components"]
        assert time.monotonic() - began < a_second()
        assert hub.memory() - before < 64 * 1024**2
        for listener in ("link", "enrolment"):
            context = hub.context()
            context.check_hostname = False
            context.set_alpn_protocols(["h2"])
            with context.wrap_socket(hub.connect(listener)) as secure:
                assert secure.version() == "TLSv1.3"
    assert next(one for one in components if one["name"] == "connections")["ok"] is False
    _until(lambda: _told(hub) == "hub/connections-dropped", 10.0)
    metrics = urllib.request.urlopen(f"http://127.0.0.1:{hub.ports['metrics']}/metrics", timeout=2.0).read()
    assert b'cellward_hub_connections_dropped_total{listener="api"' in metrics


def _told(hub: Process) -> str:
    return str(next(one["code"] for one in hub.get("/status")["components"] if one["name"] == "connections"))


def test_v16_headers_that_never_end_are_cut(hub: Process) -> None:
    """Whoever has not shown a token in time is cut off, however busily it sends; others go on meanwhile."""
    with hub.context().wrap_socket(hub.connect("api"), server_hostname="localhost") as slow:
        slow.sendall(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n")
        began = time.monotonic()
        while _sends(slow, b"x: y\r\n"):
            assert time.monotonic() - began < 30.0, "it was never cut off"
            time.sleep(0.2)
            hub.get("/whoami")
    assert time.monotonic() - began < 15.0


def _sends(connection: socket.socket, data: bytes) -> bool:
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


def test_a_known_connection_may_wait(hub: Process) -> None:
    """A connection that has shown its token is kept for the next request, beyond the time strangers get."""
    token = (hub.directory / "admin.token").read_text().strip()
    request = f"GET /v1/whoami HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    with hub.context().wrap_socket(hub.connect("api"), server_hostname="localhost") as slow:
        for pause in (12.0, 0.0):
            slow.sendall(request)
            assert b"200 OK" in slow.recv(65536)
            time.sleep(pause)


def test_v4_the_admin_api_speaks_tls_1_3_alone(hub: Process) -> None:
    """Older versions end in the handshake, before any token is sent."""
    context = hub.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError), context.wrap_socket(hub.connect("api"), server_hostname="localhost"):
        pass
