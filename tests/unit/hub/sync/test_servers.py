"""Listeners that cannot be made leave nothing behind."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import pytest

from cellward.errors import CellwardError
from cellward.runtime.clock import SystemClock
from hub.sync import servers
from tests.fakes.ports import FakeLinkHub
from tools.stack.ports import free_ports


async def test_v16_a_listener_that_cannot_be_made_gives_its_address_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V16: gRPC takes no Unix socket of so long a name; the port bound for it is free again, at once."""
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    here = FakeLinkHub(SystemClock())
    (port,) = free_ports(1)
    with pytest.raises(CellwardError) as refused:
        servers.build_enrolment_server(
            identity=here.hub.identity,
            leaf=here.leaf,
            link_address=lambda: "",
            host="127.0.0.1",
            port=port,
            clock=here.clock,
        )
    assert refused.value.code == "link/cannot-listen"
    # The traceback, which is still here, holds what was bound: only closing it frees the port.
    with socket.create_server(("127.0.0.1", port)):
        pass
    assert list(deep.iterdir()) == []
