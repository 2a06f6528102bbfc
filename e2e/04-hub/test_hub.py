"""The hub as people install it: its chart in one cluster, the agents of two clusters, a second start, a restore."""

from __future__ import annotations

import json
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from tests.fakes.installation import cell_text
from tests.fakes.real_cluster import PORTS, PROGRAM, require_node
from tools.demo.narrate import StepFailedError, wait_for
from tools.demo.processes import installed
from tools.parts.locate import path_of
from tools.stack.chart import AGENT_NAMESPACE
from tools.stack.control_plane import BlockingControlPlane
from tools.stack.node import dns, images, storage
from tools.stack.node.ground import Ground
from tools.stack.shell import AdminShell

pytestmark = [pytest.mark.real, pytest.mark.timeout(900), pytest.mark.xdist_group("e2e-hub")]

T = TypeVar("T")
CHARTS = Path(__file__).resolve().parents[2] / "charts"
HUB = "cellward-hub"
ENVIRONMENTS = {"eu-1": "development", "us-1": "staging"}
NODE_PORTS = {"enrolment": 30741, "link": 30742, "api": 30743}


@dataclass
class World:
    """One hub in a pod, two clusters with an agent each, and who administers them."""

    directory: Path
    planes: dict[str, BlockingControlPlane] = field(default_factory=dict)
    shells: dict[str, AdminShell] = field(default_factory=dict)
    version: int = 0

    def sh(self, line: str, cluster: str = "eu-1", *, code: int = 0) -> str:
        """Run a line in the shell of a cluster's administrator; returns its standard output."""
        done = self.shells[cluster].run(line)
        assert done.returncode == code, f"`{line[-300:]}` ended with {done.returncode}: {done.stdout}{done.stderr}"[
            -3000:
        ]
        return done.stdout

    def hub(self, line: str) -> str:
        """Run a line about the namespace of the hub."""
        return self.sh(f"{line} --namespace {HUB}")

    def json(self, line: str) -> Any:
        """Run a command of ``cellward`` and read what it printed."""
        return json.loads(self.sh(f"cellward {line} -o json"))

    def until(self, what: str, probe: Callable[[], T | None], seconds: float = 120) -> T:
        """Poll until something holds; fails with the pods as they are."""
        try:
            return wait_for(what, probe, seconds)
        except StepFailedError as error:
            pods = [
                self.shells[name].run("kubectl get pods -A -o wide; kubectl get events -A").stdout
                for name in self.shells
            ]
            logs = self.shells["eu-1"].run(f"kubectl logs -n {HUB} deployment/{HUB} --tail=30").stdout
            raise AssertionError("\n".join([str(error), *pods, logs])) from error

    def connected(self) -> set[str]:
        """Names of the clusters whose link is open."""
        done = self.shells["eu-1"].run("cellward clusters list -o json")
        return {one["name"] for one in json.loads(done.stdout) if one["connected"]} if done.returncode == 0 else set()

    def wait_connected(self) -> None:
        """Wait until both agents have their link."""
        self.until("both agents to be connected", lambda: self.connected() == set(ENVIRONMENTS))

    def deploy(self) -> None:
        """Release the next version of a cell to both clusters, and wait until it is ready on both."""
        self.version += 1
        file = self.directory / "probe.yaml"
        file.write_text(cell_text(self.version))
        where = " ".join(f"--environment {name}" for name in ENVIRONMENTS.values())
        self.sh(f"cellward apply -f {file} {where} --wait --timeout 180")
        shown = self.json("cells show shop/probe")
        assert {(one["cluster"], one["phase"], one["version"]) for one in shown["states"]} == {
            (name, "ready", f"1.0.{self.version}") for name in ENVIRONMENTS
        }


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Install the hub, log in with the command that Helm prints, make keys, publish policy, install both agents."""
    require_node()
    with tempfile.TemporaryDirectory(prefix="cwh-") as place, ExitStack() as stack:
        made = World(Path(place))
        archives, references = _images(made.directory / "images")
        for number, name in enumerate(ENVIRONMENTS, 1):
            plane = BlockingControlPlane(name, made.directory / name, nodes=1, ground=Ground(number))
            plane.images = archives
            made.planes[name] = stack.enter_context(plane)
            dns.install(plane.admin)
            storage.install(plane.admin)
            claim = (AGENT_NAMESPACE, "cellward-agent-state")
            storage.offer(plane.admin, "agent", plane.real[0].name, made.directory / f"{name}-agent", claim)
            programs = {"cellward": installed("cellward")}
            variables = {"CELLWARD_HOME": str(made.directory / "home"), "CELLWARD_OPA": str(path_of("opa"))}
            made.shells[name] = AdminShell(
                made.directory / f"{name}-shell", plane.kubeconfig_admin, programs=programs, variables=variables
            )
        _install_hub(made, references["hub"])
        trust = made.directory / "home" / "trust.yaml"
        trust.write_text(yaml.safe_dump({**yaml.safe_load(trust.read_text()), "image": references["agent"]}))
        for name, environment in ENVIRONMENTS.items():
            line = made.sh(f"cellward clusters invite {name} --environment {environment} --no-production").strip()
            made.sh(line, name)
        made.wait_connected()
        yield made


def _images(directory: Path) -> tuple[list[Path], dict[str, str]]:
    found = {name: images.ours(name) for name in ("hub", "agent")}
    program = images.stand_in(directory, "program", [PROGRAM], PORTS)
    archives = [images.pause(directory), dns.archive(directory), program, *(archive for archive, _ in found.values())]
    return archives, {name: reference for name, (_, reference) in found.items()}


def _install_hub(world: World, image: str) -> None:
    plane = world.planes["eu-1"]
    for volume in ("data", "backups"):
        claim = (HUB, f"{HUB}-{volume}")
        storage.offer(plane.admin, f"hub-{volume}", plane.real[0].name, world.directory / f"hub-{volume}", claim)
    node = Ground(1).node(0)
    repository, _, digest = image.partition("@")
    values: dict[str, Any] = {
        name: {"address": f"{node}:{port}", "service": {"type": "NodePort", "nodePort": port}}
        for name, port in NODE_PORTS.items()
    }
    values["image"] = {"repository": repository, "digest": digest}
    file = world.directory / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    notes = world.sh(f"helm install {HUB} {CHARTS / HUB} --namespace {HUB} --create-namespace --values {file} --wait")
    (login,) = re.findall(r"^ +(kubectl .* \| cellward login .*)$", notes, re.MULTILINE)
    # The pod is ready; that the node's port leads to it is told to kube-proxy a moment later.
    world.until("the port of the node to lead to the hub", lambda: _answers(node, NODE_PORTS["api"]), 60)
    world.sh(login)
    world.sh("cellward init --no-passphrase --owner tests")
    world.sh(f"cellward policy publish {CHARTS.parent / 'policies'}")


def test_two_commands_and_one_line_for_each_cluster(world: World) -> None:
    """Hub by Helm, login as printed, agents by their lines: a cell is ready in both clusters, and `check` is green."""
    world.deploy()
    world.sh("cellward check")
    level = f"kubectl label namespace {HUB} pod-security.kubernetes.io/enforce=restricted"
    assert "Warning" not in world.shells["eu-1"].run(level).stderr


def test_v1_a_hub_that_starts_again_is_the_same_hub(world: World) -> None:
    """Another pod over the same volume: same token, same keys, same agents."""
    world.hub(f"kubectl delete pod --selector app.kubernetes.io/name={HUB} --wait")
    world.hub(f"kubectl rollout status deployment/{HUB} --timeout=120s")
    world.wait_connected()
    world.deploy()


def test_a_backup_that_was_asked_for_on_schedule_is_restored(world: World) -> None:
    """The CronJob asks through the API; the hub's database is lost, restored in a pod, and no agent goes back."""
    world.sh(f"cellward tokens create --name backup --role admin --file {world.directory}/backup.token")
    ca = world.directory / "eu-1-shell" / "hub-ca.pem"
    files = f"--from-file=token={world.directory}/backup.token --from-file=ca.crt={ca}"
    world.hub(f"kubectl create secret generic {HUB}-backup {files}")
    enabled = f"--reuse-values --set backup.enabled=true --set backup.secret={HUB}-backup"
    world.hub(f"helm upgrade {HUB} {CHARTS / HUB} {enabled} --wait")
    world.wait_connected()
    world.hub(f"kubectl create job now --from=cronjob/{HUB}-backup")
    world.hub("kubectl wait job/now --for=condition=complete --timeout=120s")
    world.hub("kubectl delete job/now --wait")
    (backup,) = (world.directory / "hub-backups").glob("hub-*.db")
    # Signed after the backup: agents run it, and the restored hub does not know it.
    world.deploy()
    world.hub(f"kubectl scale deployment/{HUB} --replicas=0")
    world.hub(f"kubectl wait pod --selector app.kubernetes.io/name={HUB} --for=delete --timeout=60s")
    for file in (world.directory / "hub-data").glob("hub.db*"):
        file.unlink()
    _run_in_pod(
        world, ["restore", "--config", "/etc/cellward/settings/hub.yaml", f"/var/lib/cellward-backups/{backup.name}"]
    )
    world.hub(f"kubectl scale deployment/{HUB} --replicas=1")
    world.hub(f"kubectl rollout status deployment/{HUB} --timeout=120s")
    world.wait_connected()
    world.deploy()


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def _run_in_pod(world: World, arguments: list[str]) -> None:
    """Run a command of the hub in a pod like the hub's own, while the hub is away."""
    template = json.loads(world.hub(f"kubectl get deployment/{HUB} -o json"))["spec"]["template"]
    pod = template["spec"]
    container = {**pod["containers"][0], "args": arguments}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        container.pop(probe, None)
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "restore", "namespace": HUB},
        "spec": {**pod, "restartPolicy": "Never", "containers": [container]},
    }
    file = world.directory / "restore.json"
    file.write_text(json.dumps(manifest))
    world.sh(f"kubectl apply -f {file}")
    world.until("the restore to end", lambda: _phase(world) in {"Succeeded", "Failed"})
    assert _phase(world) == "Succeeded", world.hub("kubectl logs restore")


def _phase(world: World) -> str:
    return world.hub("kubectl get pod restore -o jsonpath={.status.phase}")
