"""V9, V10: what measures a cell is selected by its policies as the component it stands for, and by no Service of it."""

from __future__ import annotations

from typing import Any

import pytest

from agent.isolation.probing import pods
from agent.isolation.probing.edges import NO_COMPONENT, Pod
from cellward.cells import labels
from cellward.cells.load import load_cells
from cellward.cells.render import RenderedCell, render
from cellward.cells.resolve import resolve_cells
from cellward.cells.spec import build_release
from cellward.cells.stamps import Stamps
from cellward.documents.facts import ClusterFacts
from tests.fakes.cell_world import REALM, cell_yaml
from tests.fakes.clock import ManualClock

_JOB = "    once:\n      type: job\n      image: registry.example/once:1\n"
_KEPT = (
    "    store:\n      type: stateful\n      image: registry.example/store:1\n      ports: {sql: {port: 5432}}\n"
    "    web:\n      type: service\n      image: registry.example/web:1\n      ports: {http: {port: 8080}}\n"
)


@pytest.fixture
def rendered() -> RenderedCell:
    """Return a cell with two Services and a Job."""
    (manifest,) = load_cells(cell_yaml("front", components=_KEPT + _JOB), "test")
    resolved = resolve_cells([manifest], {})[manifest.cell.key]
    release = build_release(manifest.cell, resolved, realm=REALM, issued_at=ManualClock().now())
    facts = ClusterFacts(name="eu-1", uid="u-1", environments=("dev",), production=False)
    return render(release, facts, "dev", Stamps.of(b"k" * 32))


def test_a_pod_of_a_cell_is_reached_where_it_is_once_it_is_ready() -> None:
    """It is known to answer when its kubelet asks it."""
    container = {"name": "web", "readinessProbe": {"tcpSocket": {"port": 80}}}
    ready = {"type": "Ready", "status": "True"}
    pod = {
        "metadata": {"labels": {labels.COMPONENT: "web"}},
        "spec": {"nodeName": "node-1", "containers": [container]},
        "status": {"podIP": "10.1.2.3", "conditions": [{"type": "PodScheduled", "status": "True"}, ready]},
    }
    assert pods.ready_pod_of(pod) == Pod("web", "10.1.2.3", "node-1", answers=True)
    silent = {**pod, "spec": {"containers": [{"name": "web"}]}}
    assert pods.ready_pod_of(silent) == Pod("web", "10.1.2.3", "", answers=False)
    for status in ({}, {"podIP": "10.1.2.3"}, {"conditions": [ready]}):
        assert pods.ready_pod_of({**pod, "status": status}) is None
    not_ready = {"podIP": "10.1.2.3", "conditions": [{**ready, "status": "False"}]}
    assert pods.ready_pod_of({**pod, "status": not_ready}) is None


def _selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def _labels(job: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = job["spec"]["template"]["metadata"]["labels"]
    return found


def test_v10_no_service_selects_a_probe_and_every_one_its_own_pods(rendered: RenderedCell) -> None:
    """A request for the shop must never reach what measures it."""
    services = [one for one in rendered.objects if one["kind"] == "Service"]
    assert {one["metadata"]["name"] for one in services} == {"store", "web"}
    for service in services:
        name, selector = service["metadata"]["name"], service["spec"]["selector"]
        job = pods.caller("p", "from-1", rendered.namespace, "i", component=name, wanted=(), settle_seconds=1)
        assert not _selects(selector, _labels(job))
        assert not _selects(selector, _labels(pods.responder("p", rendered.namespace, "i")))
        workload = next(
            one for one in rendered.objects
            if one["kind"] in {"Deployment", "StatefulSet"} and one["metadata"]["name"] == name
        )  # fmt: skip
        assert _selects(selector, workload["spec"]["template"]["metadata"]["labels"])


def test_v9_policies_take_a_caller_for_the_component_it_stands_for(rendered: RenderedCell) -> None:
    """Every policy that selects pods of a component selects the caller too, and none the other way round."""
    for name in ("store", "web", "once", NO_COMPONENT):
        job = pods.caller("p", "from-1", rendered.namespace, "i", component=name, wanted=(), settle_seconds=1)
        real = {"cellward.dev/component": name, "app.kubernetes.io/name": name}
        for policy in rendered.isolation:
            selector = policy["spec"]["podSelector"].get("matchLabels", {})
            assert _selects(selector, _labels(job)) == _selects(selector, real), policy["metadata"]["name"]


def test_v12_a_probe_is_restricted_and_ends_by_itself(rendered: RenderedCell) -> None:
    """Pod Security restricted, no token, bounded in time; ready to nobody, so no Service ever sends to it."""
    for job in (
        pods.responder("p", rendered.namespace, "i"),
        pods.caller("p", "from-1", rendered.namespace, "i", component="web", wanted=(), settle_seconds=1, node="n1"),
    ):
        spec = job["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "volumes", "serviceAccountName", "nodeName"} & set(spec)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert spec["readinessGates"] == [{"conditionType": "cellward.dev/never-ready"}]
        assert job["spec"]["activeDeadlineSeconds"] <= 120
        assert job["spec"]["ttlSecondsAfterFinished"] <= 120
        # Neither drift nor health nor an end of a cell counts what is not marked as one of its objects.
        assert "app.kubernetes.io/managed-by" not in {**job["metadata"]["labels"], **_labels(job)}


def _ended(message: str, uid: str = "u1", **changes: Any) -> dict[str, Any]:
    status = {"name": pods.CONTAINER, "state": {"terminated": {"exitCode": 0, "message": message, **changes}}}
    owner = {"kind": "Job", "uid": uid, "controller": True}
    metadata = {"name": "x", "ownerReferences": [owner]}
    return {"metadata": metadata, "spec": {"nodeName": "n1"}, "status": {"containerStatuses": [status]}}


def test_the_result_of_our_own_pod_is_read() -> None:
    """Letters and milliseconds, in the order of the plan, with the node."""
    found = pods.outcome_of(_ended('{"open":"10","lag_ms":[1200,0]}'), "u1", 2)
    assert found == pods.Outcome((True, False), (1.2, 0.0), "n1")


@pytest.mark.parametrize(
    "pod",
    [
        _ended('{"open":"10","lag_ms":[1,0]}', uid="of-another"),
        {**_ended('{"open":"10","lag_ms":[1,0]}'), "metadata": {"name": "x"}},
        _ended('{"open":"10","lag_ms":[1,0]}', exitCode=1),
        _ended('{"open":"101","lag_ms":[1,0,0]}'),
        _ended('{"open":"1x","lag_ms":[1,0]}'),
        _ended('{"open":["1","0"],"lag_ms":[1,0]}'),
        _ended('{"open":"10","lag_ms":[1]}'),
        _ended('{"open":"10","lag_ms":[NaN,0]}'),
        _ended('{"open":"10","lag_ms":[1e999,0]}'),
        _ended('{"open":"10","lag_ms":[-1,0]}'),
        _ended('{"open":"10","lag_ms":[true,0]}'),
        _ended('{"open":"10","lag_ms":[99999999,0]}'),
        _ended('{"open":"10"}'),
        _ended("[]"),
        _ended(""),
        _ended("[" * 4000),
        _ended(" " * 5000 + '{"open":"10","lag_ms":[1,0]}'),
    ],
)
def test_v9_v16_nonsense_and_what_strangers_say_is_no_result(pod: dict[str, Any]) -> None:
    """Whoever writes the status of a pod can neither forge a proof nor end the agent."""
    assert pods.outcome_of(pod, "u1", 2) is None


def test_v9_a_responder_counts_once_the_kubelet_was_answered() -> None:
    """Running is not listening: what is tried before is closed, and proves nothing."""
    state = {"name": pods.CONTAINER, "ready": False, "state": {"running": {}}}
    pod = {"status": {"podIP": "10.0.0.1", "containerStatuses": [state]}}
    assert pods.address_of(pod) == ""
    state["ready"] = True
    assert pods.address_of(pod) == "10.0.0.1"
    (container,) = pods.responder("p", "ns", "i")["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["tcpSocket"] == {"port": 17445}
