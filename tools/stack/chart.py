"""Installing the files of ``charts/cellward-agent`` without Helm, and waiting until they bite."""

from __future__ import annotations

import time
from pathlib import Path

import yaml

from tools.stack.api import Answer, ApiClient, JSONObject
from tools.stack.errors import NOT_READY
from tools.stack.steps import Steps

CHART_FILES = Path(__file__).resolve().parents[2] / "charts" / "cellward-agent" / "files"
AGENT_NAMESPACE = "cellward-system"
AGENT_ACCOUNT = "cellward-agent"
AGENT_USER = f"system:serviceaccount:{AGENT_NAMESPACE}:{AGENT_ACCOUNT}"
#: The field manager of whoever installs the chart.
INSTALLER = "cellward-chart"

_BITE_SECONDS = 60.0


def chart_objects() -> list[JSONObject]:
    """Return every object of the chart's plain files, in the order of their file names."""
    return [
        document
        for file in sorted(CHART_FILES.glob("*.yaml"))
        for document in yaml.safe_load_all(file.read_text())
        if document
    ]


def install_chart(admin: ApiClient) -> Steps[None]:
    """Apply every file, then wait until they bite."""
    for manifest in chart_objects():
        answer = admin.apply(manifest, manager=INSTALLER)
        admin.must(answer, f"apply {manifest['kind']} {manifest['metadata']['name']}")
    yield from await_chart(admin)


def await_chart(admin: ApiClient) -> Steps[None]:
    """Probe with dry runs until each admission policy refuses what it must.

    A ValidatingAdmissionPolicy takes effect on a tick of about a second, and a test that runs into that second would
    see the agent without its fence.
    """
    waiting = dict(_PROBES)
    deadline = time.monotonic() + _BITE_SECONDS
    while waiting:
        for name in [name for name, probe in waiting.items() if _refused_by(probe(admin), name)]:
            del waiting[name]
        if waiting and time.monotonic() > deadline:
            raise NOT_READY(f"these policies do not refuse anything after {_BITE_SECONDS:.0f} s: {', '.join(waiting)}")
        if waiting:
            yield


def remove_guards(admin: ApiClient) -> Steps[None]:
    """Delete the bindings of the admission policies, and wait until none of them refuses anything any more."""
    for manifest in chart_objects():
        if manifest["kind"] == "ValidatingAdmissionPolicyBinding":
            admin.must(admin.delete(manifest), f"delete {manifest['metadata']['name']}")
    deadline = time.monotonic() + _BITE_SECONDS
    while any(_refused_by(probe(admin), name) for name, probe in _PROBES.items()):
        if time.monotonic() > deadline:
            raise NOT_READY(f"an admission policy without its binding still refuses after {_BITE_SECONDS:.0f} s")
        yield


def _refused_by(answer: Answer, policy: str) -> bool:
    return answer.status == 403 and f"'{policy}'" in answer.message


def _probe_fence(admin: ApiClient) -> Answer:
    stray: JSONObject = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "not-a-cell"}}
    return admin.create(stray, dry_run=True, user=AGENT_USER)


def _probe_labels(admin: ApiClient) -> Answer:
    labels = {"cellward.dev/project": "x"}
    metadata = {"name": "not-a-cell", "labels": labels}
    claimed: JSONObject = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    return admin.create(claimed, dry_run=True)


def _probe_pod_security(admin: ApiClient) -> Answer:
    labels = {f"cellward.dev/{name}": "x" for name in ("project", "cell", "environment")}
    labels |= {"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/audit": "privileged"}
    labels["cellward.dev/stamp"] = "0" * 40
    lowered: JSONObject = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x--x--x", "labels": labels}}
    return admin.create(lowered, dry_run=True, user=AGENT_USER)


def _probe_isolation(admin: ApiClient) -> Answer:
    forged: JSONObject = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": "not-ours",
            "namespace": "default",
            "labels": {"app.kubernetes.io/managed-by": "cellward"},
        },
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
    return admin.create(forged, dry_run=True)


_PROBES = {
    "cellward-agent-fence": _probe_fence,
    "cellward-cell-labels": _probe_labels,
    "cellward-pod-security": _probe_pod_security,
    "cellward-isolation-guard": _probe_isolation,
}
