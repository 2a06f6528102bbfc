"""Hub and agent of two versions work together, each way round, and one too far away goes on enforcing alone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cellward.version import VERSION, release_of
from tests.fakes.installation import CLUSTER, NAMESPACE, ROOT, Installation, open_installation, policy_in_force
from tests.fakes.previous import previous_tree
from tools.stack.steps import drive

pytestmark = [pytest.mark.real, pytest.mark.timeout(600), pytest.mark.xdist_group("e2e-skew")]

#: Seconds that anything may take on a busy machine.
PATIENCE = 120.0


@contextmanager
def installed(older: str) -> Iterator[Installation]:
    """An installation whose hub or agent is of the previous version."""
    tree = previous_tree()
    trees = {"hub_tree": tree if older == "hub" else ROOT, "agent_tree": tree if older == "agent" else ROOT}
    with open_installation(**trees) as running:
        yield running


def works(installation: Installation) -> None:
    """A new version of the cell becomes ready and is what runs; everything recorded meanwhile arrives."""
    installation.wait_ready(installation.deploy(), PATIENCE)
    assert installation.released() == {"web": {str(installation.version)}, "back": {str(installation.version)}}
    installation.until(
        "the records to arrive",
        lambda: installation.stage.api.get(f"/clusters/{CLUSTER}")["spoolDepth"] == 0,
        PATIENCE,
    )


def restarts(installation: Installation) -> int:
    """How many starts of the agent are on the hub's record."""
    return len(installation.records("agent.start"))


def comes_back(installation: Installation) -> None:
    """The agent is connected again, and still decides on its verified policy."""
    installation.stage.wait_connected(CLUSTER)
    installation.until("the policy to be in force", lambda: policy_in_force(installation), PATIENCE)


@pytest.mark.parametrize("older", ["agent", "hub"])
def test_hub_and_agent_of_two_versions_work_together(older: str) -> None:
    """V1, V8, V13: join, policy, a cell, an update, records, kills of either; then the older is upgraded in place."""
    with installed(older) as installation:
        works(installation)
        works(installation)

        before = restarts(installation)
        installation.stop_agent(kill=True)
        installation.start_agent(previous_tree() if older == "agent" else ROOT)
        comes_back(installation)
        works(installation)
        installation.until("the start to be on record", lambda: restarts(installation) > before, PATIENCE)

        installation.stop_hub(kill=True)
        installation.stage.start_hub()
        comes_back(installation)
        works(installation)
        installation.verify_audit()

        if older == "hub":
            installation.replace_hub(ROOT)
        else:
            installation.stop_agent()
            installation.apply_chart(ROOT)
            installation.configure_agent(guards_dir=str(ROOT / "charts/cellward-agent/files"))
            installation.start_agent(ROOT)
        comes_back(installation)
        works(installation)
        installation.verify_audit()


def far_tree(directory: Path) -> tuple[Path, str]:
    """Today's agent, which says that it is two minor versions further; returns the tree and that version."""
    own = release_of(VERSION)
    assert own is not None
    far = f"{own.major}.{own.minor + 2}.0"
    tree = directory / "far"
    for name in ("agent", "cellward", "charts"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    file = tree / "cellward" / "version.py"
    text, changed = re.subn(f'"{re.escape(VERSION)}"', f'"{far}"', file.read_text())
    assert changed == 1
    file.write_text(text)
    return tree, far


def test_v1_an_agent_too_far_away_is_refused_and_goes_on_enforcing(tmp_path: Path) -> None:
    """V1: no link and a reason, on both sides; drift is repaired all the same; with its own version it is back."""
    tree, far = far_tree(tmp_path)
    with open_installation() as installation:
        installation.wait_ready(installation.deploy(), PATIENCE)
        installation.stop_agent()
        installation.start_agent(tree)

        def known() -> bool:
            cluster = installation.stage.api.get(f"/clusters/{CLUSTER}")
            return bool(cluster["agentVersion"] == far and not cluster["connected"])

        installation.until("the hub to know the version", known, PATIENCE)
        steps = installation.stage.cli.json("clusters", "upgrade", CLUSTER)
        assert [(step["part"], step["state"], step["linked"]) for step in steps] == [
            ("hub", "up-to-date", True), ("agent", "newer", False),
        ]  # fmt: skip
        installation.until("the agent to say why", lambda: "wire/version-skew" in installation.agent.log.read_text())

        released = installation.released()
        installation.kubectl.run("set", "env", "deployment/web", "VERSION=other", "-n", NAMESPACE)
        installation.until("drift to be repaired without a hub", lambda: installation.released() == released, PATIENCE)
        assert installation.stage.connected() == []

        drive(installation.agent.stop())
        installation.start_agent(ROOT)
        comes_back(installation)
        works(installation)
