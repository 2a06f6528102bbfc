"""Replicas are killed in turn under load, and PostgreSQL is restarted: nothing is lost, doubled or unrecorded."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.fakes.installation import CLUSTER, ENVIRONMENT, cell_text
from tests.fakes.replicas import DEV, Replicas, open_replicas

#: Seconds of the storm.
SECONDS = float(os.environ.get("CELLWARD_E2E_SECONDS", "180"))
#: Seconds that anything may take to come back; this machine may be busy.
PATIENCE = 240.0
#: Cells beside the one of the real agent; they are on the clusters of the linked agents.
CELLS = ("one", "two", "three")

pytestmark = [pytest.mark.real, pytest.mark.timeout(SECONDS + 1500), pytest.mark.xdist_group("e2e-replicas")]


@dataclass
class Uploads:
    """Deploys new versions again and again, whatever the hubs are doing."""

    replicas: Replicas
    stop: threading.Event = field(default_factory=threading.Event)
    #: Deployments whose upload was answered with success, with the number of their version, by cell.
    kept: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    tried: int = 0

    def run(self) -> None:
        """Upload until told to stop."""
        for cell in itertools.cycle(("probe", *CELLS)):
            if self.stop.is_set():
                return
            self.deploy(cell)

    def deploy(self, cell: str) -> str:
        """Sign and upload the next version of a cell; returns its Deployment, empty where no answer came."""
        self.tried += 1
        version, environment = self.tried, ENVIRONMENT if cell == "probe" else DEV
        stage = self.replicas.installation.stage
        file = stage.directory / f"{cell}.yaml"
        file.write_text(cell_text(version, cell))
        words = ("apply", "-f", str(file), "--environment", environment, "-o", "json")
        # 3: the hub did not answer, or was busy coming or going. Whether it kept it nobody has said.
        done = stage.cli.run(*words, accept=(0, 1, 3))
        if done.returncode:
            return ""
        digest = str(json.loads(done.stdout)[0]["deployment"])
        self.kept.setdefault(cell, []).append((version, digest))
        return digest


@pytest.fixture(scope="module")
def replicas() -> Iterator[Replicas]:
    """Three hubs, PostgreSQL, an agent with its control plane, and four linked agents."""
    with open_replicas() as running:
        yield running


def storm(replicas: Replicas) -> tuple[int, int]:
    """Kill replicas in turn and restart the database once; returns how many kills and how many restarts there were."""
    kills, restarts = 0, 0
    begun = time.monotonic()
    while time.monotonic() - begun < SECONDS or not restarts:
        number = kills % len(replicas.hubs)
        replicas.kill(number)
        kills += 1
        if not restarts and time.monotonic() - begun >= SECONDS / 2:
            # While a replica is away as well.
            replicas.server.restart()
            restarts += 1
        replicas.start(number)
    return kills, restarts


def documents(replicas: Replicas, kind: str) -> dict[str, dict[str, Any]]:
    """Every document of a kind, by digest."""
    found: dict[str, dict[str, Any]] = {}
    cursor = ""
    while True:
        page = replicas.installation.stage.api.get("/documents", kind=kind, **({"cursor": cursor} if cursor else {}))
        found |= {item["digest"]: item for item in page["items"]}
        cursor = page["nextCursor"]
        if not cursor:
            return found


def everything_settles(replicas: Replicas, last: dict[str, str]) -> None:
    """Wait until each agent was given the last Deployments, and its records are all acknowledged."""
    installation, background = replicas.installation, replicas.background
    names = {CLUSTER, *(agent.name for agent in replicas.agents)}
    installation.until("all agents to be connected", lambda: names <= set(installation.stage.connected()), PATIENCE)
    installation.wait_ready(last["probe"], PATIENCE)
    for agent in replicas.agents:
        wanted = {cell: last[cell] for cell in CELLS}
        installation.until(f"{agent.name} to have the last", lambda: agent.newest() == wanted, PATIENCE)  # noqa: B023
        background.run(agent.quiet())
        installation.until(
            f"{agent.name} to be acknowledged", lambda: background.run(agent.depth()) == 0, PATIENCE  # noqa: B023
        )  # fmt: skip
    installation.wait_spool_empty(PATIENCE)


def test_v13_replicas_killed_in_turn_lose_double_and_forget_nothing(replicas: Replicas) -> None:
    """V13, V14, V16: all of it is as if nobody had been killed, and one log says so to whoever trusts no hub."""
    installation, uploads = replicas.installation, Uploads(replicas)
    thread = threading.Thread(target=uploads.run, name="uploads")
    thread.start()
    try:
        kills, restarts = storm(replicas)
    finally:
        uploads.stop.set()
        thread.join(PATIENCE)
    assert not thread.is_alive()
    last: dict[str, str] = {}
    for cell in ("probe", *CELLS):
        last[cell] = installation.until(f"{cell} to be deployed", lambda: uploads.deploy(cell), PATIENCE)  # noqa: B023
    everything_settles(replicas, last)

    releases, deployments = documents(replicas, "release"), documents(replicas, "deployment")
    kept = {digest for each in uploads.kept.values() for _, digest in each}
    assert kept <= deployments.keys(), "an upload that was answered with success is gone"
    for cell in ("probe", *CELLS):
        newest = max((one for one in deployments.values() if one["cell"] == cell), key=lambda one: one["sequence"])
        assert newest["digest"] == last[cell]
        for state in installation.stage.api.get(f"/cells/shop/{cell}")["states"]:
            assert state["desiredDigest"] == last[cell], state
    assert installation.released() == {
        "web": {str(uploads.kept["probe"][-1][0])},
        "back": {str(uploads.kept["probe"][-1][0])},
    }

    records = installation.records()
    recorded = Counter(
        record["object"] for record in records if record["action"] == "document.upload" and record["decision"] == "done"
    )
    assert set(recorded) == {f"Document//{digest}" for digest in releases}, "kept without a record, or the reverse"
    assert set(recorded.values()) == {1}
    written = Counter(name for agent in replicas.agents for name in agent.written)
    taken = Counter(record["object"] for record in records if record["object"].startswith("linked-"))
    assert taken == written
    report = installation.verify_audit()
    assert report["records"] >= len(records)

    # The storm was one: each replica was killed, the database restarted, and uploads went on through it.
    assert kills >= len(replicas.hubs)
    assert restarts == 1
    assert len(kept) > len(CELLS) + 1
    print(  # noqa: T201 - what was seen, for whoever reads the log
        f"kills={kills} restarts={restarts} uploads={uploads.tried} answered={len(kept)} "
        f"kept={len(deployments)} records={len(records)} of linked agents={sum(written.values())}"
    )
