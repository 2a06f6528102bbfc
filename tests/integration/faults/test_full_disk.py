"""A full disk under a running agent: what is released is kept and repaired, nothing new without a record (V13, V16)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.installation import CLUSTER, NAMESPACE, Installation
from tools.demo.kubectl import AGENT_USER
from tools.stack.api import ApiClient

pytestmark = [pytest.mark.real, pytest.mark.timeout(480), pytest.mark.xdist_group("faults")]

SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": NAMESPACE}}


def tamper(admin: ApiClient) -> None:
    """Delete a Service of the cell."""
    assert admin.delete(SERVICE).ok


def repaired(installation: Installation) -> None:
    """The deleted Service is back."""
    admin = installation.plane.admin
    installation.until("the Service to be back", lambda: admin.get(SERVICE).ok, 40)


def strangers(installation: Installation, batch: int) -> None:
    """Add ten foreign NetworkPolicies, past the guard, and wait until all are taken away: ten repairs to record.

    The same object tampered with again and again would be repaired ever more slowly.
    """
    admin = installation.plane.admin
    policies = [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": f"stranger-{batch}-{number}", "namespace": NAMESPACE},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]},
        }
        for number in range(10)
    ]
    for policy in policies:
        admin.must(admin.create(policy, user=AGENT_USER), "add a foreign policy")
    installation.until("foreign policies to be gone", lambda: not any(admin.get(one).ok for one in policies), 20)


@contextmanager
def filled(directory: Path) -> Iterator[None]:
    """Take all space of a file system until the context ends."""
    ballast = directory / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            for size in (1024 * 1024, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * size)
        yield
    finally:
        ballast.unlink()


@pytest.fixture
def small_spool(installation: Installation) -> Iterator[None]:
    """Bound the spooled records to 64 KiB, about a hundred of them."""
    _restart(installation, spool={"audit_max_bytes": 64 * 1024})
    yield
    _restart(installation, spool={})


def _restart(installation: Installation, **settings: Any) -> None:
    installation.stop_agent()
    stage = installation.stage
    # Else the session that ended would be taken for the new one, and the agent could still be opening its state.
    installation.until("the hub to see that the agent ended", lambda: CLUSTER not in stage.connected())
    installation.configure_agent(**settings)
    installation.agent.start()
    installation.stage.wait_connected(CLUSTER)


def test_spool_at_its_bound_while_the_hub_is_away_v13(installation: Installation, small_spool: None) -> None:
    """The hub stays away until the spool is full: repairs go on, also after a restart; the loss stands in the chain."""
    installation.wait_spool_empty()
    lost_before = len(installation.records("audit.lost"))
    installation.stop_hub(kill=True)
    log = installation.agent.log
    try:
        begin = log.stat().st_size

        def losing() -> bool:
            return b"audit-record-lost" in log.read_bytes()[begin:]

        for batch in range(40):
            strangers(installation, batch)
            if losing():
                break
        assert losing(), "the spool never became full"
        installation.stop_agent(kill=True)
        tamper(installation.plane.admin)
        installation.agent.start()
        repaired(installation)
        assert installation.agent.running
    finally:
        installation.stage.start_hub()
    installation.stage.wait_connected(CLUSTER)

    def counted() -> bool:
        return len(installation.records("audit.lost")) > lost_before

    # The count goes into the chain with the next record.
    installation.wait_ready(installation.deploy())
    installation.until("the loss to stand in the chain", counted)


def test_no_space_left_on_the_volume_v13_v16(installation: Installation, volume: Any) -> None:
    """ENOSPC for real: repairs go on, a new release waits and says why, check shows it; with space all goes on."""
    if not volume.small:
        pytest.skip("a file system of its own needs root and mount")
    admin = installation.plane.admin
    # Of an agent that was killed before, SQLite keeps a log file with room in it; one that ends in order leaves none.
    _restart(installation)
    before = installation.state()
    with filled(volume.path):
        free = os.statvfs(volume.path)
        assert free.f_bavail == 0
        wanted = installation.deploy()

        def told() -> bool:
            exit_code, lines = installation.check()
            return exit_code == 1 and any(line["code"] == "spool/full" and line["hint"] for line in lines)

        for _ in range(3):
            tamper(admin)
            repaired(installation)
        installation.until("check to tell of the full disk", told, 40)
        state = installation.state()
        assert state["deploymentDigest"] in {before["deploymentDigest"], wanted}
        if state["deploymentDigest"] != wanted:
            assert installation.released() == {"web": {before["version"][4:]}, "back": {before["version"][4:]}}
        assert installation.agent.running
    installation.wait_ready(wanted)
    version = {str(installation.version)}
    assert installation.released() == {"web": version, "back": version}
