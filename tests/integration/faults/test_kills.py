"""Parts killed at any moment: it always converges, nothing stays half applied, nothing is recorded twice (V13, V16)."""

from __future__ import annotations

import base64
import json
import random
import signal
import threading
import time
from collections.abc import Callable

import pytest

from tests.fakes.installation import Installation
from tools.demo.narrate import StepFailedError

#: How many moments of an apply an agent is killed at.
_PARTS = 6

pytestmark = [pytest.mark.real, pytest.mark.timeout(480), pytest.mark.xdist_group("faults")]


def deploy_and(installation: Installation, fault: Callable[[], None]) -> str:
    """Deploy the next version; call ``fault`` the moment the hub wants it. Returns the deployment's digest."""
    before = installation.state().get("desiredDigest")
    result: list[str] = []
    thread = threading.Thread(target=lambda: result.append(installation.deploy()))
    thread.start()
    try:
        installation.until("the hub to want the next version", lambda: _wanted(installation) != before, 40)
        fault()
    finally:
        thread.join(60)
    assert len(result) == 1, installation.logs()
    return result[0]


def _wanted(installation: Installation) -> str | None:
    try:
        wanted: str | None = installation.state().get("desiredDigest")
    except StepFailedError:
        return None
    return wanted


def is_whole(installation: Installation) -> None:
    """Everything in the namespace is of the last version: nothing is half applied."""
    version = {str(installation.version)}
    assert installation.released() == {"web": version, "back": version}


def test_agent_killed_at_any_moment_of_an_apply_v13_v16(installation: Installation) -> None:
    """SIGKILL at moments from the arrival of an item to after its receipt; each version is accepted once."""
    chance = random.Random()
    deployments = []
    # One by chance in each part of the half second that an apply takes, so that none of its steps is left out.
    for part in range(_PARTS):

        def kill(part: int = part) -> None:
            time.sleep(chance.uniform(part, part + 1) * 0.5 / _PARTS)
            installation.stop_agent(kill=True)

        digest = deploy_and(installation, kill)
        installation.agent.start()
        installation.wait_ready(digest)
        is_whole(installation)
        assert installation.state()["acknowledged"] is True
        deployments.append(digest)
    installation.wait_spool_empty()
    applied = [
        json.loads(base64.b64decode(record["record"]))["details"]["deploymentDigest"]
        for record in installation.records("cell.apply")
        if record["decision"] == "done"
    ]
    for digest in deployments:
        assert applied.count(digest) == 1, f"on record {applied.count(digest)} times: {digest}"
    # None of a killed agent lives on.
    installation.wait_one_engine()


def test_engine_killed_during_decisions(installation: Installation) -> None:
    """OPA dies while it is asked: the release is decided again by the next one, never let through undecided."""
    chance = random.Random(2)
    for _ in range(4):

        def kill() -> None:
            time.sleep(chance.uniform(0.0, 0.2))
            installation.signal_engine(signal.SIGKILL)

        installation.wait_ready(deploy_and(installation, kill))
        is_whole(installation)


def test_engine_hung_when_it_is_asked(installation: Installation) -> None:
    """OPA hangs: the question ends at its deadline, the engine is replaced, and the release decided after all."""
    installation.signal_engine(signal.SIGSTOP)
    hung = installation.engine_pids()
    installation.wait_ready(installation.deploy())
    is_whole(installation)
    assert installation.wait_one_engine() not in hung


def test_api_server_killed_during_an_apply(installation: Installation) -> None:
    """The API server dies between two objects: what is missing is applied when it is back."""
    chance = random.Random(3)
    for _ in range(2):

        def kill() -> None:
            time.sleep(chance.uniform(0.0, 0.3))
            installation.plane.stop_apiserver(kill=True)

        try:
            digest = deploy_and(installation, kill)
        finally:
            installation.plane.start_apiserver()
        installation.wait_ready(digest)
        is_whole(installation)


def test_agent_starts_without_its_api_server_and_waits(installation: Installation) -> None:
    """No crash loop: the process waits with back-off, check tells that it is away, and it goes on by itself."""
    installation.stop_agent(kill=True)
    installation.plane.stop_apiserver(kill=True)
    try:
        size = installation.agent.log.stat().st_size
        installation.agent.start()

        def waits() -> bool:
            installation.agent.check()
            return b"agent-waits" in installation.agent.log.read_bytes()[size:]

        installation.until("the agent to say that it waits", waits)

        def is_away() -> bool:
            exit_code, lines = installation.check()
            return (exit_code, [line["id"] for line in lines]) == (1, ["clusters/connected"])

        installation.until("check to say that the agent is away, and nothing else", is_away)
        pid = installation.agent.pid
    finally:
        installation.plane.start_apiserver()
    installation.wait_ready(installation.deploy())
    assert installation.agent.pid == pid


class Running:
    """A CLI command in a thread, so that the hub can be killed under it."""

    def __init__(self, installation: Installation, *command: str) -> None:
        self.code: int | None = None
        self._installation = installation
        self._command = command
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.code = self._installation.stage.cli.run(*self._command, accept=(0, 1, 2, 3, 4)).returncode

    def hub_dies_after(self, seconds: float) -> int | None:
        """Kill the hub meanwhile, wait for the command to end, and start the hub again."""
        time.sleep(seconds)
        self._installation.stop_hub(kill=True)
        self._thread.join(60)
        self._installation.stage.start_hub()
        return self.code


def test_hub_killed_during_uploads_v13(installation: Installation) -> None:
    """The hub dies at any moment of `apply`: all of it is kept or nothing, and the same command completes it."""
    chance = random.Random(4)
    for _ in range(4):
        command = ("apply", "-f", str(installation.cell_file()), "--environment", "development")
        code = Running(installation, *command).hub_dies_after(chance.uniform(0.3, 1.5))
        assert code in {0, 3}, f"apply ended with {code}"
        again = installation.stage.cli.json(*command)
        assert len(again) == 1
        installation.wait_ready(again[0]["deployment"])
        is_whole(installation)


def test_hub_killed_during_publication_v16(installation: Installation) -> None:
    """The hub dies at any moment of a publication: agents decide on the old set or the new one, and it goes on."""
    chance = random.Random(5)
    for _ in range(3):
        code = Running(installation, "policy", "refresh").hub_dies_after(chance.uniform(0.5, 1.2))
        assert code in {0, 3}, f"refresh ended with {code}"
    published = installation.stage.cli.json("policy", "refresh")

    def in_force() -> bool:
        cluster = installation.stage.api.get("/clusters/eu-1")
        return bool(cluster["policy"]["snapshot"] == published["snapshotVersion"])

    installation.until("the last snapshot to be in force", in_force)
