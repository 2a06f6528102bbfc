"""The agent as people install it: the printed line alone, on a real kubelet, and what happens to it later."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cellward.cells.gated import GATE
from tests.fakes.installation import CLUSTER, ENVIRONMENT, NAMESPACE
from tests.fakes.real_cluster import RealCluster, open_real_cluster

pytestmark = [pytest.mark.real, pytest.mark.timeout(600), pytest.mark.xdist_group("e2e-helm")]

CHART = "cellward-agent"
ARGUMENTS = "--namespace cellward-system"
SCRAPED = {"{port: 8080}": "{port: 8080}\n      scrape: {port: main, metrics: [standin_requests_total]}"}
CHANGED = "--set settings.log_level=debug --set settings.intervals.metrics=2"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Return an installation by the printed line, run in a directory of no meaning, with one cell that is ready."""
    with open_real_cluster() as running:
        running.sh(running.invite(), directory=tmp_path_factory.mktemp("anywhere"))
        running.wait_agent()
        running.wait_phase(running.apply()["deployment"], "ready")
        yield running


@pytest.fixture(autouse=True)
def _goes_on(cluster: RealCluster) -> Iterator[None]:
    """After every test the agent does all of its work: it takes a new version, and no file is opened to others."""
    before = modes(cluster.state_dir)
    yield
    cluster.wait_agent()
    cluster.wait_phase(cluster.apply()["deployment"], "ready")
    after = modes(cluster.state_dir)
    assert {name: after[name] for name in before if name in after} == {n: m for n, m in before.items() if n in after}


def modes(directory: Path) -> dict[str, str]:
    """Modes of every file of keys and of the state's own, by path."""
    found = {path: path.lstat() for path in directory.rglob("*")}
    return {
        str(path.relative_to(directory)): stat.filemode(one.st_mode)
        for path, one in found.items()
        if stat.S_ISREG(one.st_mode)
    }


def pods_of_cell(cluster: RealCluster) -> list[dict[str, Any]]:
    """Pods of the cell that are not ending."""
    pods = cluster.kubectl.list("pods", "app.kubernetes.io/managed-by=cellward")
    mine = [pod for pod in pods if pod["metadata"]["namespace"] == NAMESPACE]
    return [pod for pod in mine if not pod["metadata"].get("deletionTimestamp")]


def test_v1_the_printed_line_alone_brings_policy_into_force(cluster: RealCluster) -> None:
    """Connected, policy verified and deciding; `helm test` says so, `check` is green, containers of the cell run."""
    assert "--set" not in cluster.line
    assert cluster.stage.api.get(f"/clusters/{CLUSTER}")["policy"]["snapshot"] > 0
    cluster.sh(f"helm test {CHART} {ARGUMENTS} --logs")
    checked = cluster.stage.cli.run("check", accept=(0, 1))
    assert checked.returncode == 0, checked.stdout
    runtimes = {pod["status"]["containerStatuses"][0]["containerID"].partition(":")[0] for pod in pods_of_cell(cluster)}
    assert runtimes == {"containerd"}


def test_v12_a_cell_that_breaks_a_rule_never_has_a_pod(cluster: RealCluster) -> None:
    """Refused by the rule it breaks; its namespace is closed and empty."""
    broken = {
        "securityContext: {runAsUser: 1000, runAsGroup: 1000}": "securityContext: {runAsUser: 0, runAsNonRoot: false}"
    }
    state = cluster.wait_phase(cluster.apply("root", **broken)["deployment"], "refused", "root")
    assert {refusal["rule"] for refusal in state["refusals"]} == {"starter/pod-security/run-as-non-root"}
    pods = cluster.kubectl.list("pods", "cellward.dev/cell=root")
    assert pods == []
    # A refused cell is a red line of `check`, which another test wants green.
    cluster.stage.cli.run("delete", "shop/root", "--environment", ENVIRONMENT)
    cluster.until("the refused cell to be ended", lambda: cluster.state("root").get("phase") == "removed")


def test_keys_are_the_agents_alone(cluster: RealCluster) -> None:
    """The volume has the pod's group; what holds a key is for its owner alone."""
    keys = {name: mode for name, mode in modes(cluster.state_dir).items() if "key" in name or "identity" in name}
    assert keys
    assert set(keys.values()) == {"-rw-------"}, keys


def test_v1_killed_it_comes_back_as_the_same_agent(cluster: RealCluster) -> None:
    """SIGKILL of every process of its pod: the kubelet starts the container again, with its identity and floors."""
    before = cluster.agent_pod()
    key = cluster.stage.api.get(f"/clusters/{CLUSTER}")["statementKeyid"]
    assert cluster.plane.real[0].kill_pod(before["metadata"]["uid"]) > 0

    def restarted() -> bool:
        (status,) = cluster.agent_pod().get("status", {}).get("containerStatuses", [{"restartCount": 0}])
        return bool(status["restartCount"] > before["status"]["containerStatuses"][0]["restartCount"])

    cluster.until("the kubelet to start the container again", restarted)
    cluster.wait_agent()
    assert cluster.stage.api.get(f"/clusters/{CLUSTER}")["statementKeyid"] == key


def test_v1_its_pod_is_deleted(cluster: RealCluster) -> None:
    """Another pod over the same volume is the same agent."""
    before = cluster.agent_pod()["metadata"]["uid"]
    cluster.sh(f"kubectl delete pod -l app.kubernetes.io/name=cellward-agent {ARGUMENTS}")
    assert cluster.wait_agent()["metadata"]["uid"] != before


def test_the_kubelet_is_restarted(cluster: RealCluster) -> None:
    """Pods live on; the volume is set up again, and the files are as they were."""
    before = cluster.agent_pod()["metadata"]["uid"]
    cells = {pod["metadata"]["uid"] for pod in pods_of_cell(cluster)}
    cluster.plane.restart_kubelet(0)
    assert cluster.wait_agent()["metadata"]["uid"] == before
    assert {pod["metadata"]["uid"] for pod in pods_of_cell(cluster)} == cells


def test_upgrade_and_rollback(cluster: RealCluster) -> None:
    """Values change by upgrade and are back after rollback; the cell's pods are not touched, what they say is read."""
    cluster.wait_phase(cluster.apply(**SCRAPED)["deployment"], "ready")
    cells = {pod["metadata"]["uid"] for pod in pods_of_cell(cluster)}
    revision = newest_revision(cluster)
    cluster.sh(f"helm upgrade {CHART} {chart()} {ARGUMENTS} --reuse-values {CHANGED} --wait")
    assert "log_level: debug" in cluster.sh(f"kubectl get configmap {CHART} {ARGUMENTS} -o yaml")
    cluster.wait_agent()
    cluster.until("what the cell's pods count to reach the fleet's endpoint", partial(counted, cluster), 90)
    cluster.sh(f"helm rollback {CHART} {revision} {ARGUMENTS} --wait")
    assert "log_level: debug" not in cluster.sh(f"kubectl get configmap {CHART} {ARGUMENTS} -o yaml")
    cluster.wait_agent()
    assert {pod["metadata"]["uid"] for pod in pods_of_cell(cluster)} == cells


def counted(cluster: RealCluster) -> bool:
    """Whether the series that the release names is there, with whose it is, and none that it does not name."""
    text = cluster.fleet_metrics()
    assert "standin_calls_total" not in text
    labels = f'cell="probe",cluster="{CLUSTER}",component="web",environment="{ENVIRONMENT}",pod="web-'
    return f"standin_requests_total{{{labels}" in text


def test_v9_an_upgrade_brings_the_start_gate_with_the_next_deployment(cluster: RealCluster) -> None:
    """What runs is not touched and says that it has none yet; what is deployed then begins with it."""
    cells = {pod["metadata"]["uid"] for pod in pods_of_cell(cluster)}
    revision = newest_revision(cluster)
    cluster.sh(f"helm upgrade {CHART} {chart()} {ARGUMENTS} --reuse-values --set prober.startGate=proved --wait")
    cluster.wait_agent()
    cluster.until(
        "the cell to say that its pods have no start gate", lambda: "cell/start-gate-pending" in codes(cluster)
    )
    assert {pod["metadata"]["uid"] for pod in pods_of_cell(cluster)} == cells
    cluster.wait_phase(cluster.apply()["deployment"], "ready")
    cluster.until("every pod to be one of the new release", lambda: set(map(first_of, pods_of_cell(cluster))) == {GATE})
    assert "cell/start-gate-pending" not in codes(cluster)
    cluster.sh(f"helm rollback {CHART} {revision} {ARGUMENTS} --wait")
    cluster.wait_agent()


def codes(cluster: RealCluster) -> set[str]:
    """Conditions of the cell."""
    return {one["code"] for one in cluster.state()["conditions"]}


def first_of(pod: dict[str, Any]) -> str:
    """What a pod begins with."""
    return str(pod["spec"].get("initContainers", [{"name": "nothing"}])[0]["name"])


def test_a_field_that_somebody_changed(cluster: RealCluster) -> None:
    """Helm says whose field it is and changes nothing; `--force-conflicts`, as the guide says, takes it back."""
    cluster.sh(f"kubectl set resources deployment {CHART} {ARGUMENTS} --requests=cpu=150m")
    line = f"helm upgrade {CHART} {chart()} {ARGUMENTS} --reuse-values --set resources.requests.cpu=120m"
    assert "conflict" in cluster.sh(line, code=1)
    cluster.sh(f"{line} --force-conflicts --wait")
    assert "cpu: 120m" in cluster.sh(f"kubectl get deployment {CHART} {ARGUMENTS} -o yaml")


def test_v1_uninstalled_and_installed_again(cluster: RealCluster) -> None:
    """What runs, runs on, and an administrator can delete it; over the kept volume it is the same agent again."""
    cells = {pod["metadata"]["uid"] for pod in pods_of_cell(cluster)}
    cluster.sh(f"helm uninstall {CHART} {ARGUMENTS} --wait")
    assert {pod["metadata"]["uid"] for pod in pods_of_cell(cluster)} == cells
    cluster.sh(f"kubectl delete deployment web --namespace {NAMESPACE} --wait")
    cluster.until("the cluster to be shown without a link", lambda: CLUSTER not in cluster.stage.connected())
    # The token is spent: the agent that is there already needs none.
    cluster.sh(cluster.line)
    cluster.wait_agent()
    cluster.until("the deployment to be made again", lambda: cluster.kubectl.get("deployment", NAMESPACE, "web"))


def newest_revision(cluster: RealCluster) -> int:
    """Return the newest revision of the release: descriptions of failed ones may say anything."""
    history = json.loads(cluster.shell.run(f"helm history {CHART} {ARGUMENTS} -o json").stdout)
    return max(int(entry["revision"]) for entry in history)


def chart() -> str:
    """Path of the chart in this tree."""
    return str(Path(__file__).resolve().parents[2] / "charts" / CHART)
