"""Both charts by Helm 3 and by Helm 4: install, upgrade, a field of somebody else's, rollback, uninstall, reinstall.

The API server, its admission, controllers and scheduler are real; nodes are simulated, so no program of ours runs here.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cellward.identity import keys
from cellward.identity.x509 import make_ca, to_pem
from cellward.runtime.clock import SystemClock
from cli.commands import app
from tests.fakes.answering_hub import answering_hub, plain_trust
from tests.integration.chart.cells import CellNamespace
from tools.parts.build import ensure
from tools.parts.model import ROOT
from tools.stack.api import ApiClient
from tools.stack.chart import AGENT_ACCOUNT, AGENT_NAMESPACE
from tools.stack.control_plane import BlockingControlPlane
from tools.stack.shell import AdminShell

pytestmark = [pytest.mark.real, pytest.mark.timeout(600), pytest.mark.xdist_group("e2e-helm-versions")]

AGENT, HUB = "cellward-agent", "cellward-hub"
#: Images that differ by digest alone.
FIRST, SECOND, THIRD = (f"registry.example/cellward/agent@sha256:{digit * 64}" for digit in "123")
CLAIMS = {(AGENT_NAMESPACE, "cellward-agent-state"), (HUB, "cellward-hub-data")}
PATIENCE = 90.0


@dataclass
class Cluster:
    """A cluster without anything of ours, and the shell of its administrator."""

    plane: BlockingControlPlane
    shell: AdminShell
    anywhere: Path
    major: int

    @property
    def admin(self) -> ApiClient:
        """The administrator."""
        return self.plane.admin

    def run(self, line: str, *, fails: bool = False) -> str:
        """Run a line in a directory of no meaning; returns what it said."""
        done = self.shell.run(line, directory=self.anywhere)
        assert bool(done.returncode) is fails, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def read(self, what: str, namespace: str) -> dict[str, Any]:
        """An object, as ``kubectl get`` has it."""
        found: dict[str, Any] = json.loads(self.run(f"kubectl get {what} --namespace {namespace} -o json"))
        return found

    def image(self) -> str:
        """The agent's image."""
        spec = self.read(f"deployment/{AGENT}", AGENT_NAMESPACE)["spec"]["template"]["spec"]
        return str(spec["containers"][0]["image"])

    def until(self, what: str, probe: Callable[[], bool]) -> None:
        """Poll until something holds."""
        deadline = time.monotonic() + PATIENCE
        while not probe():
            assert time.monotonic() < deadline, what
            time.sleep(0.1)

    def ends(self, namespace: str) -> None:
        """Delete a namespace, and wait until it is gone: nothing may hold it."""
        self.run(f"kubectl delete namespace {namespace} --wait=false")
        self.until(
            f"{namespace} to be gone",
            lambda: self.admin.request("GET", f"/api/v1/namespaces/{namespace}").status == 404,
        )

    def ours(self) -> set[str]:
        """What is left of the charts that belongs to no namespace."""
        kinds = "validatingadmissionpolicies,validatingadmissionpolicybindings,clusterroles,clusterrolebindings"
        return set(self.run(f"kubectl get {kinds} -l app.kubernetes.io/part-of=cellward -o name").split())


@pytest.fixture(params=[3, 4], ids=["Helm 3", "Helm 4"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of its own, with a volume for each claim."""
    part = {3: "helm3", 4: "helm"}[request.param]
    ensure([part])
    with BlockingControlPlane("versions", tmp_path / "plane", nodes=1) as plane:
        for number, claim in enumerate(sorted(CLAIMS)):
            offer(plane.admin, f"volume-{number}", claim)
        (tmp_path / "anywhere").mkdir()
        shell = AdminShell(tmp_path / "shell", plane.kubeconfig_admin, helm=part)
        yield Cluster(plane, shell, tmp_path / "anywhere", request.param)


def offer(admin: ApiClient, name: str, claim: tuple[str, str]) -> None:
    """A volume for one claim; nobody ever mounts it."""
    spec = {
        "capacity": {"storage": "50Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/nowhere"},
        "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": claim[0], "name": claim[1]},
    }  # fmt: skip
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}
    admin.must(admin.request("POST", "/api/v1/persistentvolumes", volume), name)


@dataclass
class Hub:
    """The command line of somebody who is logged in to a hub that answers what is asked here."""

    home: Path

    def say(self, *words: str) -> str:
        """Run a command; returns its standard output."""
        done = CliRunner().invoke(app, [*words, "--home", str(self.home)], env={"NO_COLOR": "1"})
        assert done.exit_code == 0, done.output
        return done.stdout

    def line(self) -> str:
        """What ``clusters invite`` prints."""
        return self.say("clusters", "invite", "eu-1", "--environment", "dev", "--no-production").strip()

    def upgrade(self, image: str) -> str:
        """What ``clusters upgrade`` prints for the cluster, once trust.yaml names another image."""
        file = self.home / "trust.yaml"
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "image": image}))
        (step,) = json.loads(self.say("clusters", "upgrade", "eu-1", "--to", "0.2.0", "-o", "json"))[1:]
        return str(step["command"])


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub that is nothing but its answers."""
    home = tmp_path / "home"
    trust = plain_trust(home)
    authority = to_pem(make_ca("hubs", keys.new_tls_key(), SystemClock().now()).certificate).decode()
    token = {
        "cluster": "eu-1", "token": "cwj_" + "0" * 64, "expiresAt": "2027-11-30T12:00:00Z",
        "enrolmentAddress": "hub.example:7441", "hubCaPem": authority,
    }  # fmt: skip
    said = {
        "/v1/trust": {"realm": trust.realm, "timestampSpki": "", "treeHeadSpki": ""},
        "/v1/clusters/eu-1/join-tokens": token,
        "/v1/status": {
            "version": "0.1.0", "clusters": 1, "connected": 1, "cells": 0, "cellsReady": 0, "components": [],
        },
        "/v1/clusters/eu-1": {
            "name": "eu-1", "createdAt": "2026-01-01T00:00:00Z", "createdBy": "x", "joined": True,
            "agentVersion": "0.1.0",
        },
    }  # fmt: skip
    with answering_hub(lambda _, path: (200, json.dumps(said[path]).encode())) as answering:
        answering.log_in(home)
        made = Hub(home)
        file = home / "trust.yaml"
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "image": FIRST}))
        yield made


def make_cell(cluster: Cluster, name: str) -> CellNamespace:
    """A cell as the agent makes it, with exactly the agent's rights, and something in it."""
    cell = CellNamespace("shop", name, "dev")
    agent = cluster.admin.with_token(cluster.admin.service_account_token(AGENT_NAMESPACE, AGENT_ACCOUNT, 3600))
    for manifest in (cell.namespace(), cell.network_policy(), cell.service_account(), cell.binding()):
        # Guards are read a moment after they were installed.
        cluster.until(
            f"{manifest['kind']} of {name}", lambda manifest=manifest: agent.apply(manifest, manager=AGENT).ok
        )
    cluster.until("its object", lambda: agent.apply(cell.config_map(), manager="cell", user=cell.user).ok)
    return cell


def test_the_agents_chart_lives_through_it_all(cluster: Cluster, hub: Hub) -> None:
    """By the printed lines; what somebody else changed is told (Helm 4) and taken over, and a rollback goes back."""
    first = hub.line()
    cluster.run(first)
    cluster.run(f"kubectl rollout status deployment/{AGENT} -n {AGENT_NAMESPACE} --timeout=90s")
    assert cluster.image() == FIRST
    cluster.run(first)

    cluster.run(f"{hub.upgrade(SECOND)} --wait")
    assert cluster.image() == SECOND
    settings = cluster.read(f"configmap/{AGENT}", AGENT_NAMESPACE)["data"]["agent.yaml"]
    assert yaml.safe_load(settings)["facts"]["name"] == "eu-1"

    cluster.run(f"kubectl set image deployment/{AGENT} agent=registry.example/other:1 -n {AGENT_NAMESPACE}")
    again = f"{hub.upgrade(THIRD)} --wait"
    if cluster.major == 4:
        assert "conflict" in cluster.run(again, fails=True)
        assert cluster.image() == "registry.example/other:1"
        again += " --force-conflicts"
    cluster.run(again)
    assert cluster.image() == THIRD

    revisions = json.loads(cluster.run(f"helm history {AGENT} -n {AGENT_NAMESPACE} -o json"))
    cluster.run(f"helm rollback {AGENT} {revisions[0]['revision']} -n {AGENT_NAMESPACE} --wait")
    assert cluster.image() == FIRST


def test_v16_an_uninstall_leaves_no_deadlock_and_the_state(cluster: Cluster, hub: Hub) -> None:
    """With cells there, in whichever order: each namespace goes when it is deleted, and the volume's claim stays."""
    cluster.run(hub.line())
    cells = [make_cell(cluster, name) for name in ("one", "two", "three")]
    claim = cluster.read("pvc/cellward-agent-state", AGENT_NAMESPACE)["metadata"]["uid"]
    # While everything is in force an administrator can end a cell's namespace, and cannot open the cell.
    cluster.until("the guards to be there", lambda: not opens(cluster, cells[0].name))
    cluster.ends(cells[0].name)

    cluster.run(f"helm uninstall {AGENT} -n {AGENT_NAMESPACE} --wait")
    assert cluster.ours() == set()
    cluster.until("the guards to be away", lambda: opens(cluster, cells[1].name))
    cluster.ends(cells[1].name)

    # What was changed while the guards were away holds up neither an install nor the end of that namespace.
    cluster.run(f"kubectl label namespace {cells[2].name} cellward.dev/cell-")
    cluster.run(hub.line())
    assert cluster.read("pvc/cellward-agent-state", AGENT_NAMESPACE)["metadata"]["uid"] == claim
    cluster.ends(cells[2].name)

    # The namespace first: the release is in it, so Helm knows of nothing any more, and labels find the rest.
    last = make_cell(cluster, "four")
    cluster.ends(AGENT_NAMESPACE)
    assert cluster.ours()
    cluster.run(leftovers())
    assert cluster.ours() == set()
    cluster.ends(last.name)


def opens(cluster: Cluster, namespace: str) -> bool:
    """Whether an administrator may take a cell's isolation away: a dry run, judged by the guards alone."""
    line = f"kubectl delete networkpolicies --all -n {namespace} --dry-run=server"
    done = cluster.shell.run(line, directory=cluster.anywhere)
    assert done.returncode == 0 or "cellward-isolation-guard" in done.stderr, done.stderr
    return done.returncode == 0


def leftovers() -> str:
    """The line of the how-to for a namespace that was deleted before the chart was uninstalled."""
    page = (ROOT / "docs/how-to/invite-a-cluster.md").read_text()
    found = re.findall(r"^\s*\$ (kubectl delete validatingadmission(?:.*\\\n)*.*)$", page, re.MULTILINE)
    assert len(found) == 1, found
    return str(found[0])


def test_the_hubs_chart_lives_through_it_all(cluster: Cluster) -> None:
    """Install, an upgrade that changes settings, rollback; the volume outlives the release; 4 takes over from 3."""
    values = ROOT / "charts" / HUB / "ci" / "default-values.yaml"
    words = f"{HUB} {ROOT / 'charts' / HUB} --namespace {HUB}"
    cluster.run(f"helm install {words} --create-namespace -f {values} --wait")
    claim = cluster.read("pvc/cellward-hub-data", HUB)["metadata"]["uid"]

    def level() -> str:
        return str(yaml.safe_load(cluster.read(f"configmap/{HUB}", HUB)["data"]["hub.yaml"]).get("log_level"))

    before = level()
    cluster.run(f"helm upgrade {words} --reset-then-reuse-values --set settings.log_level=debug --wait")
    assert level() == "debug" != before
    cluster.run(f"helm rollback {HUB} 1 -n {HUB} --wait")
    assert level() == before
    if cluster.major == 3:
        # A release of Helm 3 goes on with Helm 4: what Helm 3 wrote is its own.
        newer = AdminShell(cluster.anywhere / "newer", cluster.plane.kubeconfig_admin)
        line = f"helm upgrade {words} --reset-then-reuse-values --set settings.log_level=warning --wait"
        done = newer.run(line)
        assert done.returncode == 0, done.stderr
        assert level() == "warning"
    cluster.run(f"helm uninstall {HUB} -n {HUB} --wait")
    cluster.run(f"helm install {words} -f {values} --wait")
    assert cluster.read("pvc/cellward-hub-data", HUB)["metadata"]["uid"] == claim
    cluster.run(f"helm uninstall {HUB} -n {HUB} --wait")
    cluster.ends(HUB)
