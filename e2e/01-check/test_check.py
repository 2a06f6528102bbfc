"""``cellward check`` against a running installation: green, exactly the right red line, green again."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from tests.fakes.installation import CLUSTER, Installation, open_installation

pytestmark = [pytest.mark.real, pytest.mark.timeout(240), pytest.mark.xdist_group("e2e-check")]


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    """Hub, API server and agent with one cell that is ready."""
    with open_installation() as running:
        running.wait_ready(running.deploy())
        yield running


def red_lines(installation: Installation) -> tuple[int, set[tuple[str, str]]]:
    """Exit code of ``check``, and (id, code) of what is red; whatever is red has something to do next."""
    exit_code, lines = installation.check()
    for line in lines:
        assert line["hint"], f"no next step: {line}"
        assert line["message"], line
    return exit_code, {(line["id"], line["code"]) for line in lines}


def becomes_green(installation: Installation) -> None:
    """Wait until nothing is red, and check that the exit code says so."""
    installation.until("check to be green", lambda: red_lines(installation) == (0, set()), 60)


def stays_red(installation: Installation, line: tuple[str, str], exit_code: int = 1) -> None:
    """Wait for exactly this line; three looks in a row, so that it is not a moment on the way to something else."""
    installation.until(f"check to show {line}", lambda: red_lines(installation) == (exit_code, {line}), 40)
    for _ in range(2):
        assert red_lines(installation) == (exit_code, {line})


def no_engine_answers(installation: Installation, how: Callable[[], None], code: str) -> None:
    """Break the engine, see the line, mend it; what runs is neither decided again nor touched meanwhile."""
    before = installation.state()
    how()
    try:
        stays_red(installation, ("clusters/policy-engine", code))
        assert installation.state()["deploymentDigest"] == before["deploymentDigest"]
        assert installation.state()["phase"] == "ready"
    finally:
        installation.engine_mode("run")
    becomes_green(installation)


def test_dead_engine_is_the_one_red_line(installation: Installation) -> None:
    """OPA killed and not startable: policy-engine is red with its code, and green once it can start again (V8)."""
    becomes_green(installation)

    def kill() -> None:
        installation.engine_mode("fail")
        installation.signal_engine(signal.SIGKILL)

    no_engine_answers(installation, kill, "policy/engine-not-startable")
    installation.wait_one_engine()


def test_hung_engine_is_the_one_red_line(installation: Installation) -> None:
    """OPA stopped in its tracks, and its successors too: the same line; no hung process is left when it is mended."""
    becomes_green(installation)

    def hang() -> None:
        installation.engine_mode("hang")
        installation.signal_engine(signal.SIGSTOP)

    no_engine_answers(installation, hang, "policy/engine-unavailable")
    installation.wait_one_engine()


def test_stopped_api_server_is_the_one_red_line(installation: Installation) -> None:
    """The cluster's API server away: api-server is red at the hub, which the agent still reaches (V1)."""
    becomes_green(installation)
    installation.plane.stop_apiserver()
    try:
        stays_red(installation, ("clusters/api-server", "kube/unavailable"))
        assert installation.agent.running
    finally:
        installation.plane.start_apiserver()
    becomes_green(installation)


def test_dead_agent_is_the_one_red_line(installation: Installation) -> None:
    """An agent that is gone: its cluster is not connected; what it said before is not repeated as if it were so now."""
    becomes_green(installation)
    installation.stop_agent(kill=True)
    try:
        stays_red(installation, ("clusters/connected", "check/agent-away"))
    finally:
        installation.agent.start()
    becomes_green(installation)


def test_dead_hub_is_the_one_red_line(installation: Installation) -> None:
    """The hub away: one red line with exit code 3, and the same agent is back without being asked."""
    becomes_green(installation)
    pid = installation.agent.pid
    installation.stop_hub(kill=True)
    try:
        stays_red(installation, ("hub/reachable", "cli/hub-unreachable"), exit_code=3)
    finally:
        installation.stage.start_hub()
    installation.stage.wait_connected(CLUSTER)
    becomes_green(installation)
    assert installation.agent.pid == pid
    assert installation.agent.running
