"""Ports of programs that come back: nobody's client may have them meanwhile."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tools.stack import ports


def test_a_port_is_none_that_the_kernel_gives_to_clients() -> None:
    """All different, all free, all below the range of clients."""
    below = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found = ports.free_ports(50)
    assert len(set(found)) == 50
    assert all(1024 < port < below for port in found)
    with socket.create_server(("127.0.0.1", found[0])):
        pass


def test_where_the_kernel_does_not_say_it_chooses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another kernel, or a range that leaves no room below it: ports all the same."""
    monkeypatch.setattr(ports, "_RANGE", tmp_path / "none")
    assert len(set(ports.free_ports(3))) == 3
    (tmp_path / "all").write_text("1024\t65535\n")
    monkeypatch.setattr(ports, "_RANGE", tmp_path / "all")
    assert len(set(ports.free_ports(3))) == 3
