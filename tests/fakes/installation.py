"""One whole installation of real processes: a control plane, a hub, an agent with the chart's rights, and the CLI.

It is the demonstration's stage cut down to one cluster, with what fault tests need: an engine binary that can be made
to fail or to hang, a way to look at children, and the audit export as the offline verifier sees it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tools.demo import stage as stages
from tools.demo.kubectl import Kubectl
from tools.demo.narrate import Narrator, StepFailedError, wait_for
from tools.demo.processes import environment, part
from tools.demo.stage import Stage
from tools.parts.locate import path_of
from tools.stack.chart import INSTALLER
from tools.stack.control_plane import BlockingControlPlane
from tools.stack.process import Child
from tools.stack.steps import drive

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
CLUSTER = "eu-1"
ENVIRONMENT = "development"
NAMESPACE = f"shop--probe--{ENVIRONMENT}"
#: Shorter than the defaults, so that a test need not wait; every one is an ordinary setting.
INTERVALS = {
    "heartbeat": 3, "status": 1, "metrics": 5, "audit": 0.3, "anchor": 2, "backoff_base": 0.2, "backoff_cap": 1.0,
}  # fmt: skip

# The engine's launcher gives it no environment and no arguments of ours: what it should do lies beside it as a file.
_ENGINE = """#!/bin/sh
case "$(/bin/cat '{mode}')" in
fail) echo "this engine was made to fail" >&2; exit 1 ;;
hang) kill -STOP $$ ;;
esac
CELLWARD_TEST_ENGINE='{mode}' exec '{opa}' "$@"
"""


@dataclass
class Installation:
    """Everything a test acts on.

    Attributes:
        stage: the demonstration's stage with one cluster.
        agent: the agent's process.
        version: last patch version of the cell that was deployed.
        left_healthy: whether the last test found it healthy at its end, and none has begun since.
    """

    stage: Stage
    agent: Child = field(init=False, repr=False)
    version: int = 0
    left_healthy: bool = False

    @property
    def directory(self) -> Path:
        """Everything that is written."""
        return self.stage.directory

    @property
    def plane(self) -> BlockingControlPlane:
        """The control plane."""
        return self.stage.planes[CLUSTER]

    @property
    def kubectl(self) -> Kubectl:
        """The administrator's kubectl."""
        return self.stage.kubectl[CLUSTER]

    # -- engine -------------------------------------------------------------------------------------------------------

    def engine_mode(self, mode: str) -> None:
        """Say what the engine does from its next start on: ``run``, ``fail`` or ``hang``."""
        (self.directory / "engine-mode").write_text(mode)

    def engine_pids(self) -> list[int]:
        """Engine processes of this installation, also those of an agent that was killed."""
        mark = f"CELLWARD_TEST_ENGINE={self.directory / 'engine-mode'}".encode()
        pids = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [int(pid) for pid in pids if mark in _read(f"/proc/{pid}/environ").split(b"\0")]

    def wait_one_engine(self) -> int:
        """Return the pid of the engine, once there is one and no other, of a killed agent for one."""
        return self.until("one engine, and no other", lambda: pids[0] if len(pids := self.engine_pids()) == 1 else None)

    def signal_engine(self, number: signal.Signals) -> None:
        """Send a signal to every engine of the agent."""
        for pid in self.engine_pids():
            os.kill(pid, number)

    # -- agent --------------------------------------------------------------------------------------------------------

    def install_agent(self, *, state_dir: Path | None = None, tree: Path = ROOT, **settings: Any) -> None:
        """Invite the cluster and start its agent; ``settings`` go over those of the invitation.

        ``tree`` is the one whose agent it is.
        """
        directory = self.stage.agent_directory(CLUSTER)
        self.stage.cli.run("clusters", "invite", CLUSTER, *stages.CLUSTERS[CLUSTER], "--agent-config", str(directory))
        self.engine_mode("run")
        engine = self.directory / "opa"
        engine.write_text(_ENGINE.format(mode=self.directory / "engine-mode", opa=path_of("opa")))
        engine.chmod(0o755)
        file = directory / "agent.yaml"
        config: dict[str, Any] = yaml.safe_load(file.read_text())
        config |= {
            "kubeconfig": str(self.plane.agent_kubeconfig(directory / "kubeconfig")),
            "opa_binary": str(engine),
            "guards_dir": str(tree / "charts/cellward-agent/files"),
            "intervals": INTERVALS,
            **({"state_dir": str(state_dir)} if state_dir is not None else {}),
            **settings,
        }
        file.write_text(yaml.safe_dump(config))
        self.start_agent(tree)

    def start_agent(self, tree: Path = ROOT) -> None:
        """Start the agent of a tree, with the settings and the state that are there."""
        log, file = self.directory / f"agent-{CLUSTER}.log", self.stage.agent_directory(CLUSTER) / "agent.yaml"
        self.agent = part("agent", ["agent", "run", "--config", str(file)], log, self.stage.home, tree)
        self.stage.agents[CLUSTER] = self.agent
        self.agent.start()

    def apply_chart(self, tree: Path) -> None:
        """Set rights and guards to those of a tree's chart, as an upgrade does."""
        for file in sorted((tree / "charts/cellward-agent/files").glob("*.yaml")):
            for manifest in filter(None, yaml.safe_load_all(file.read_text())):
                self.plane.admin.must(self.plane.admin.apply(manifest, manager=INSTALLER), manifest["kind"])

    def configure_agent(self, **settings: Any) -> None:
        """Change settings of the agent for its next start."""
        file = self.stage.agent_directory(CLUSTER) / "agent.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | settings))

    def stop_agent(self, *, kill: bool = False) -> None:
        """End the agent."""
        drive(self.agent.stop(kill=kill))

    def replace_hub(self, tree: Path) -> None:
        """Stop the hub and start the one of another tree over its database, with that tree's command line."""
        self.stop_hub()
        self.stage.tree = tree
        stages.make_hub(self.stage)
        self.stage.start_hub()

    def stop_hub(self, *, kill: bool = False) -> None:
        """End the hub."""
        drive(self.stage.hub.stop(kill=kill))

    # -- cells --------------------------------------------------------------------------------------------------------

    def cell_file(self) -> Path:
        """Write the next version of the cell ``shop/probe``."""
        self.version += 1
        file = self.directory / "probe.yaml"
        file.write_text(cell_text(self.version))
        return file

    def deploy(self) -> str:
        """Sign and upload the next version; returns the digest of its deployment."""
        done = self.stage.cli.json("apply", "-f", str(self.cell_file()), "--environment", ENVIRONMENT)
        return str(done[0]["deployment"])

    def state(self) -> dict[str, Any]:
        """What the hub knows of the cell."""
        states = self.stage.api.get("/cells/shop/probe")["states"]
        return next((state for state in states if state["cluster"] == CLUSTER), {})

    def wait_ready(self, digest: str, seconds: float = 60) -> None:
        """Wait until this deployment is ready, all of its objects."""

        def ready() -> bool:
            self.agent.check()
            found = self.state()
            return (
                found.get("deploymentDigest") == digest
                and found["phase"] == "ready"
                and found["objectsReady"] == found["objectsTotal"] > 0
            )

        self.until(f"{digest[:19]} to be ready", ready, seconds)

    def released(self) -> dict[str, set[str]]:
        """Images and settings of every workload in the cell's namespace, by Deployment name."""
        found = {}
        for deployment in self.kubectl.list("deployments", "app.kubernetes.io/managed-by=cellward"):
            if deployment["metadata"]["namespace"] != NAMESPACE:
                continue
            containers = deployment["spec"]["template"]["spec"]["containers"]
            values = {entry["value"] for one in containers for entry in one["env"] if entry["name"] == "VERSION"}
            found[deployment["metadata"]["name"]] = values
        return found

    # -- looking ------------------------------------------------------------------------------------------------------

    def until(self, what: str, probe: Callable[[], T | None], seconds: float = 30) -> T:
        """Poll until something holds; fails with what every part said last."""
        try:
            return wait_for(what, probe, seconds)
        except StepFailedError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from error

    def logs(self) -> str:
        """Ends of the logs of hub and agent."""
        parts = [self.stage.hub, *self.stage.agents.values()]
        return "\n".join(f"--- {child.name}\n{child.tail()}" for child in parts)

    def check(self) -> tuple[int, list[dict[str, str]]]:
        """``cellward check``: its exit code and its red lines."""
        done = self.stage.cli.run("check", "-o", "json", accept=(0, 1, 2, 3, 4))
        return done.returncode, [line for line in json.loads(done.stdout)["checks"] if line["status"] == "failed"]

    def condition(self, name: str) -> dict[str, Any]:
        """A condition of the agent as the hub has it."""
        cluster = self.stage.api.get(f"/clusters/{CLUSTER}")
        return next((one for one in cluster["conditions"] if one["name"] == name), {})

    def records(self, action: str = "") -> list[dict[str, Any]]:
        """Audit records the hub has, of one action or all."""
        return [record for record in self.stage.api.records()[0] if action in {"", record["action"]}]

    def wait_spool_empty(self, seconds: float = 30) -> None:
        """Wait until the agent has handed over all of its records, and the hub shows it.

        What the hub shows may be a second old, of before the last record: so the agent's own file is asked first.
        """
        state_dir = yaml.safe_load((self.stage.agent_directory(CLUSTER) / "agent.yaml").read_text())["state_dir"]
        file = f"file:{state_dir}/state.db?mode=ro"

        def empty() -> bool:
            with contextlib.closing(sqlite3.connect(file, uri=True)) as state:
                (waiting,) = state.execute(
                    "SELECT (SELECT count(*) FROM audit) + (SELECT count(*) FROM owed)"
                ).fetchone()
            return bool(waiting == 0 and self.stage.api.get(f"/clusters/{CLUSTER}")["spoolDepth"] == 0)

        self.until("the spool to be empty", empty, seconds)

    def verify_audit(self) -> dict[str, Any]:
        """Export the log and verify it offline; returns the verifier's report."""
        file = self.directory / "audit.ndjson"
        self.stage.cli.run("audit", "export", str(file))
        key = self.stage.api.get("/trust")["treeHeadSpki"]
        done = subprocess.run(
            [sys.executable, "-m", "auditverify", str(file), "--json", "--hub-key", key, "--accept-unanchored"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment(self.stage.home),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        assert report["consistent"] is True, report
        assert (report["gaps"], report["duplicates"]) == (0, 0), report
        return report


@contextmanager
def open_hub(*, tree: Path = ROOT, **settings: Any) -> Iterator[Installation]:
    """Start a hub with policy published, and nothing else; ``settings`` go over those of the demonstration.

    ``tree`` is the one whose hub, command line and policies they are.
    """
    with stages.open_stage(Narrator()) as stage:
        stage.tree = tree
        installation = Installation(stage)
        stages.start_hub(stage)
        if settings:
            _reconfigure_hub(installation, settings)
        stage.cli.run(
            "login", "--server", f"https://{stage.api_address}", "--ca-file", str(stage.directory / "hub-ca.pem"),
            "--token-file", str(stage.hub_data / "admin.token"),
        )  # fmt: skip
        stage.cli.run("init", "--no-passphrase", "--owner", "tests")
        stage.cli.run("policy", "publish", str(tree / "policies"))
        yield installation


def _reconfigure_hub(installation: Installation, settings: Mapping[str, Any]) -> None:
    installation.stop_hub()
    file = installation.directory / "hub.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | dict(settings)))
    installation.stage.start_hub()


@contextmanager
def open_installation(*, hub_tree: Path = ROOT, agent_tree: Path = ROOT, **settings: Any) -> Iterator[Installation]:
    """Start everything; yields when the agent is connected and decides on the published policy.

    ``settings`` are the agent's; the trees are those whose hub and agent run.
    """
    with open_hub(tree=hub_tree) as installation:
        stage = installation.stage
        plane = BlockingControlPlane(CLUSTER, stage.directory / "planes" / CLUSTER, nodes=1)
        with plane:
            stage.planes[CLUSTER] = plane
            plane.install_agent_chart()
            stage.kubectl[CLUSTER] = Kubectl(plane.kubeconfig_admin)
            if agent_tree != ROOT:
                installation.apply_chart(agent_tree)
            installation.install_agent(tree=agent_tree, **settings)
            stage.wait_connected(CLUSTER)
            installation.until("the policy to be in force", lambda: policy_in_force(installation))
            try:
                yield installation
            finally:
                # Before its API server goes: an agent that cannot save its anchor ends slowly.
                installation.stop_agent(kill=True)


def policy_in_force(installation: Installation) -> bool:
    """Whether the agent told that it decides on a verified set."""
    return bool(installation.stage.api.get(f"/clusters/{CLUSTER}")["policy"]["snapshot"])


def cell_text(version: int, name: str = "probe") -> str:
    """YAML of a cell of two services that the starter policy allows; every object of it shows the version."""
    components = "".join(
        f"    {component}:\n      type: service\n      image: docker.io/library/redis:7.4-alpine\n"
        f"      ports:\n        main: {{port: {port}}}\n"
        f'      env: {{VERSION: "{version}"}}\n'
        "      resources:\n        requests: {cpu: 10m, memory: 16Mi}\n        limits: {cpu: 10m, memory: 16Mi}\n"
        "      securityContext: {runAsUser: 1000, runAsGroup: 1000}\n"
        for component, port in (("web", 8080), ("back", 6379))
    )
    return (
        f"apiVersion: cellward.dev/v1alpha1\nkind: Cell\nmetadata: {{name: {name}, project: shop}}\n"
        f"spec:\n  version: 1.0.{version}\n  owner: team-{name}\n  components:\n{components}"
    )


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
