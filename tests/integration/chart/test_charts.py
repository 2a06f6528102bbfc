"""What holds for every chart and each of its ``ci/`` files: an API server takes it, as `restricted`, and no typo."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from tests.integration.chart.render import CHARTS, CI, NAMESPACES, helm, pick, pod_specs, rendered, values_file
from tools.generate.charts import schema_of
from tools.parts.locate import path_of
from tools.stack.api import ApiClient

pytestmark = pytest.mark.real

LEVEL = "pod-security.kubernetes.io/enforce"
PLACE = "charts-try"
#: Kinds of the charts that an API server has by itself; plural and whether they live in a namespace.
PLURALS = {
    "ClusterRole": ("clusterroles", False),
    "ClusterRoleBinding": ("clusterrolebindings", False),
    "ConfigMap": ("configmaps", True),
    "CronJob": ("cronjobs", True),
    "Deployment": ("deployments", True),
    "Ingress": ("ingresses", True),
    "NetworkPolicy": ("networkpolicies", True),
    "PersistentVolumeClaim": ("persistentvolumeclaims", True),
    "Pod": ("pods", True),
    "PodDisruptionBudget": ("poddisruptionbudgets", True),
    "Role": ("roles", True),
    "RoleBinding": ("rolebindings", True),
    "Service": ("services", True),
    "ServiceAccount": ("serviceaccounts", True),
    "ValidatingAdmissionPolicy": ("validatingadmissionpolicies", False),
    "ValidatingAdmissionPolicyBinding": ("validatingadmissionpolicybindings", False),
}
#: Kinds of others, which have no schema here.
FOREIGN = {"TLSRoute", "ServiceMonitor", "PrometheusRule"}
EACH = pytest.mark.parametrize(("chart", "file"), CI, ids=[f"{chart}-{file.stem}" for chart, file in CI])


@pytest.fixture(scope="module")
def restricted(admin: ApiClient) -> Iterator[str]:
    """A namespace with the level that the charts say their pods are made for, and their accounts."""
    labels = {LEVEL: "restricted", f"{LEVEL}-version": "latest"}
    place = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PLACE, "labels": labels}}
    admin.must(admin.create(place), "namespace")
    for name in NAMESPACES:
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": PLACE}}
        admin.must(admin.create(account), "account")
    yield PLACE
    admin.must(admin.delete(place), "namespace")


def moved(item: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Path and object for a dry run beside whatever is installed: a name of its own, the namespace of the tests."""
    plural, namespaced = PLURALS[item["kind"]]
    root = "/api/v1" if item["apiVersion"] == "v1" else f"/apis/{item['apiVersion']}"
    item["metadata"] |= {"name": f"{item['metadata']['name']}-try"}
    if namespaced:
        item["metadata"]["namespace"] = PLACE
        root += f"/namespaces/{PLACE}"
    return f"{root}/{plural}?dryRun=All&fieldValidation=Strict", item


@EACH
def test_a_real_api_server_takes_every_object(admin: ApiClient, restricted: str, chart: str, file: Path) -> None:
    """Nothing that the chart makes is unknown or invalid to Kubernetes, whatever values are given."""
    del restricted
    objects = rendered(chart, "-f", str(file))
    assert {item["kind"] for item in objects} - PLURALS.keys() <= FOREIGN
    for item in objects:
        if item["kind"] in PLURALS:
            answer = admin.request("POST", *moved(item))
            assert answer.ok, (item["kind"], item["metadata"]["name"], answer.message)


@EACH
def test_every_pod_is_admitted_as_restricted(admin: ApiClient, restricted: str, chart: str, file: Path) -> None:
    """Of Deployments the API server only warns: their pods are shown to it here."""
    for name, template in pod_specs(rendered(chart, "-f", str(file))).items():
        # A class that only kube-system may use is not what is asked here.
        spec = {key: value for key, value in template["spec"].items() if key != "priorityClassName"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "try"}, "spec": spec}
        path = f"/api/v1/namespaces/{restricted}/pods?dryRun=All&fieldValidation=Strict"
        answer = admin.request("POST", path, pod)
        assert answer.ok, (name, answer.message)
        spec["containers"][0]["securityContext"] |= {"allowPrivilegeEscalation": True}
        assert "restricted" in admin.request("POST", path, pod).message


@EACH
def test_every_object_has_the_standard_labels_and_the_namespace(chart: str, file: Path) -> None:
    """`kubectl get -l app.kubernetes.io/part-of=cellward` finds all of it, and nothing lands in another namespace."""
    for item in rendered(chart, "-f", str(file)):
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "cellward", item["metadata"]["name"]
        assert labels["app.kubernetes.io/name"].startswith(chart)
        if PLURALS.get(item["kind"], ("", True))[1]:
            assert item["metadata"]["namespace"] == NAMESPACES[chart]
    for template in pod_specs(rendered(chart, "-f", str(file))).values():
        wanted = {"name", "instance", "part-of", "version", "managed-by"}
        assert {f"app.kubernetes.io/{name}" for name in wanted} | {"helm.sh/chart"} <= set(
            template["metadata"]["labels"]
        )


@EACH
def test_root_is_read_only_and_volumes_that_are_written_are_the_pods_own(chart: str, file: Path) -> None:
    """What is mounted to be read cannot be written, and what can be is a claim or a bounded directory of the pod."""
    for template in pod_specs(rendered(chart, "-f", str(file))).values():
        spec = template["spec"]
        kinds = {volume["name"]: volume for volume in spec.get("volumes", [])}
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            for mount in container.get("volumeMounts", []):
                volume = kinds[mount["name"]]
                if not mount.get("readOnly"):
                    assert "persistentVolumeClaim" in volume or volume["emptyDir"]["sizeLimit"]
                if "secret" in volume:
                    assert volume["secret"]["defaultMode"] == 0o440
        assert spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
        assert spec["enableServiceLinks"] is False


@pytest.mark.parametrize("chart", NAMESPACES)
def test_every_ci_file_is_clean(chart: str) -> None:
    """No warning, with the values that the chart brings for this."""
    for name, file in CI:
        if name == chart:
            assert "0 chart(s) failed" in helm("lint", "--strict", str(CHARTS / chart), "-f", str(file))


def paths_of(schema: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every mapping of values that is closed."""
    if schema.get("additionalProperties") is False:
        yield above
    for name, inner in schema.get("properties", {}).items():
        yield from paths_of(inner, (*above, name))


@pytest.mark.parametrize("chart", NAMESPACES)
def test_a_typo_is_refused_wherever_values_have_names(chart: str, tmp_path: Path) -> None:
    """One file with a typo in each mapping: helm names every one of them."""
    schema = schema_of((CHARTS / chart / "values.yaml").read_text(), chart)
    places = list(paths_of(schema))
    assert len(places) > 8
    values: dict[str, Any] = {}
    for place in places:
        inner = values
        for name in place:
            inner = inner.setdefault(name, {})
        inner["typo"] = 1
    (first, *_) = (file for name, file in CI if name == chart)
    wrong = values_file(tmp_path / "wrong.yaml", values)
    words = ("template", chart, str(CHARTS / chart), "-n", NAMESPACES[chart], "-f", str(first), "-f", str(wrong))
    told = helm(*words, code=1)
    assert told.count("'typo'") == len(places), told


@pytest.mark.parametrize("chart", NAMESPACES)
def test_the_notes_name_the_next_commands(chart: str) -> None:
    """What helm prints after an install says how it goes on."""
    (first, *_) = (file for name, file in CI if name == chart)
    words = ["install", chart, str(CHARTS / chart), "-n", NAMESPACES[chart], "-f", str(first), "--dry-run=client"]
    done = subprocess.run([str(path_of("helm")), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = {
        "cellward-agent": [
            "helm test cellward-agent",
            "cellward clusters list",
            "cellward policy publish",
            "cellward clusters upgrade",
            "--force-conflicts",
        ],
        "cellward-hub": [
            "admin-token",
            "cellward login --server https://127.0.0.1:7443",
            "cellward init",
            "--force-conflicts",
        ],
    }
    for command in wanted[chart]:
        assert command in done.stdout


@EACH
def test_rbac_names_no_wildcard_and_only_the_agent_has_any(chart: str, file: Path) -> None:
    """V12: the hub's account may do nothing at all; what the agent's may do is shown by test_fence."""
    objects = rendered(chart, "-f", str(file))
    rules = [item for item in objects if item["kind"] in {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}]
    assert "*" not in yaml.safe_dump([item.get("rules", []) for item in rules])
    if chart == "cellward-hub":
        assert rules == []
        account = pick(objects, "ServiceAccount", "cellward-hub")
        assert account["automountServiceAccountToken"] is False
        for template in pod_specs(objects).values():
            assert template["spec"]["automountServiceAccountToken"] is False


def below(path: str, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    """The mount that a path is on."""
    return max(
        (mount for mount in mounts if PurePosixPath(path).is_relative_to(mount["mountPath"])),
        key=lambda mount: len(mount["mountPath"]),
    )
