"""Why pods do not run: what is said of each state, and of none twice (V15)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent.kube.interfaces import ObjectRef
from agent.objects.pods import (
    MOST,
    EventFacts,
    PodFacts,
    conditions_of_pods,
    event_facts,
    pod_facts,
    trouble_of,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
WEB = ObjectRef("apps/v1", "Deployment", "shop--web--dev", "web")
DATA = ObjectRef("apps/v1", "StatefulSet", "shop--web--dev", "data")
NIGHTLY = ObjectRef("batch/v1", "CronJob", "shop--web--dev", "nightly")
IMAGE = "registry.example/web:1"


def _at(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _pod(
    owner: tuple[str, str] = ("ReplicaSet", "web-5d4f"), *, node: str = "n1", age: float = 60, **status: Any
) -> Any:
    reference = {"kind": owner[0], "name": owner[1], "controller": True}
    metadata = {"name": "p", "uid": "u", "creationTimestamp": _at(age), "ownerReferences": [reference]}
    spec = {"containers": [{"name": "main", "image": IMAGE}], **({"nodeName": node} if node else {})}
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Pending", **status}}


def _container(state: dict[str, Any], last: dict[str, Any] | None = None, name: str = "main") -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "image": "sha256:resolved", "state": state}
    return {**found, "lastState": last} if last else found


def _waiting(reason: str, message: str = "", last: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"containerStatuses": [_container({"waiting": {"reason": reason, "message": message}}, last)]}


def _ended(code: int, reason: str, age: float = 5) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "finishedAt": _at(age)}}


def _event(kind: str, name: str, reason: str, message: str, *, age: float = 5, uid: str = "u") -> EventFacts:
    about = {"kind": kind, "name": name, "uid": uid}
    found = event_facts({"involvedObject": about, "reason": reason, "message": message, "lastTimestamp": _at(age)})
    assert found is not None
    return found


def _said(
    *pods: dict[str, Any], events: tuple[EventFacts, ...] = (), of: ObjectRef = WEB, why: str = ""
) -> list[tuple[str, str]]:
    facts: list[PodFacts] = [pod_facts(pod) for pod in pods]
    found = conditions_of_pods({of: why}, facts, events, NOW)
    assert {one.subject for one in found} <= {str(of)}
    return [(one.code, one.message) for one in found]


_UNSCHEDULED = {
    "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3"}]
}


@pytest.mark.parametrize(
    ("pod", "code", "texts"),
    [
        (_pod(**_waiting("ImagePullBackOff", "Back-off pulling image")), "image-not-pulled", ["ImagePullBackOff"]),
        (_pod(**_waiting("ErrImagePull", "manifest unknown")), "image-not-pulled", ["ErrImagePull: manifest unknown"]),
        (_pod(**_waiting("InvalidImageName", "bad")), "image-not-pulled", ["InvalidImageName"]),
        (
            _pod(**_waiting("CreateContainerConfigError", 'configmap "c" not found')),
            "container-not-started",
            ['CreateContainerConfigError: configmap "c" not found'],
        ),
        (_pod(**_waiting("RunContainerError", "no such file")), "container-not-started", ["no such file"]),
        (
            _pod(**_waiting("CrashLoopBackOff", "back-off 40s", _ended(3, "Error"))),
            "container-crashes",
            ["CrashLoopBackOff", "exit code 3"],
        ),
        (_pod(**_waiting("CrashLoopBackOff", "", _ended(137, "OOMKilled"))), "out-of-memory", ["OOMKilled"]),
        (_pod(containerStatuses=[_container(_ended(1, "Error"))]), "container-crashes", ["exit code 1 (Error)"]),
        (_pod(containerStatuses=[_container(_ended(137, "OOMKilled"))]), "out-of-memory", ["OOMKilled"]),
        (
            _pod(phase="Running", containerStatuses=[_container({"running": {}}, _ended(137, "OOMKilled"))]),
            "out-of-memory",
            ["OOMKilled"],
        ),
    ],
)
def test_v15_a_container_says_workload_container_image_and_reason(pod: Any, code: str, texts: list[str]) -> None:
    """One condition, with the code of its kind; the image is the one that was released, not what a node resolved."""
    ((found, message),) = _said(pod)
    assert found == f"cell/{code}"
    for text in ("container main", IMAGE, *texts):
        assert text in message


def test_v15_an_init_container_is_named() -> None:
    """What runs first and cannot is what keeps the others waiting; those that wait say nothing."""
    pod = _pod(initContainerStatuses=[_container({"waiting": {"reason": "ImagePullBackOff"}}, name="gate")])
    pod["spec"]["initContainers"] = [{"name": "gate", "image": "registry.example/gate:2"}]
    pod["status"] |= _waiting("PodInitializing")
    ((_, message),) = _said(pod)
    assert message == "container gate, image registry.example/gate:2: ImagePullBackOff"


@pytest.mark.parametrize(
    "pod",
    [
        _pod(),
        _pod(**_waiting("ContainerCreating")),
        _pod(phase="Running", containerStatuses=[_container({"running": {}})]),
        _pod(phase="Running", containerStatuses=[_container({"running": {}}, _ended(0, "Completed"))]),
        _pod(phase="Running", containerStatuses=[_container({"running": {}}, _ended(1, "Error", age=900))]),
        _pod(("ReplicaSet", "other-5d4f"), **_waiting("ImagePullBackOff")),
        _pod(("Job", "web-5d4f"), **_waiting("ImagePullBackOff")),
    ],
)
def test_nothing_is_said_of_what_begins_runs_or_is_not_asked_for(pod: Any) -> None:
    """A pod on its way, one that runs, a crash long ago, and pods of workloads that are well."""
    assert _said(pod) == []


def test_v15_a_pod_that_no_node_takes() -> None:
    """What the scheduler said; once a node has it, that is over."""
    assert _said(_pod(node="", **_UNSCHEDULED)) == [("cell/pod-not-scheduled", "Unschedulable: 0/3")]
    assert _said(_pod(**_UNSCHEDULED)) == []


def test_v15_a_pod_that_its_node_refuses_counts_until_another_is_there() -> None:
    """Controllers make the next one; what failed before it is history."""
    refused = {"phase": "Failed", "reason": "OutOfcpu", "message": "no room"}
    assert _said(_pod(age=9, **refused)) == [("cell/pod-not-admitted", "the node refuses it: OutOfcpu: no room")]
    assert _said(_pod(age=9, **refused), _pod(age=3)) == []
    assert _said(_pod(age=99, **refused), _pod(age=9, **refused)) == [
        ("cell/pod-not-admitted", "the node refuses it: OutOfcpu: no room")
    ]


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("FailedMount", "volume-not-mounted"),
        ("FailedAttachVolume", "volume-not-mounted"),
        ("FailedCreatePodSandBox", "container-not-started"),
    ],
)
def test_v15_events_say_why_a_pod_does_not_begin(reason: str, code: str) -> None:
    """The newest of its own, as long as its containers did not begin."""
    old = _event("Pod", "p", reason, "older", age=30)
    events = (_event("Pod", "p", reason, "newest"), old, _event("Pod", "q", reason, "another's", uid="v"))
    assert _said(_pod(**_waiting("ContainerCreating")), events=events) == [(f"cell/{code}", f"{reason}: newest")]
    tried = [code for code, _ in _said(_pod(**_waiting("ErrImagePull")), events=events)]
    assert tried == ["cell/image-not-pulled"]
    running = {"phase": "Running", "containerStatuses": [_container({"running": {}})]}
    assert _said(_pod(**running), events=events) == []
    assert _said(_pod(), events=(_event("Pod", "p", reason, "long ago", age=900),)) == []


def test_v15_a_stateful_workload_whose_pods_are_refused() -> None:
    """By the controller's event, as long as no pod was made since."""
    event = _event("StatefulSet", "data", "FailedCreate", "exceeded quota: small", age=30)
    said = [("cell/pod-not-admitted", "its pods are refused: FailedCreate: exceeded quota: small")]
    owner = ("StatefulSet", "data")
    assert _said(events=(event,), of=DATA) == said
    assert _said(_pod(owner, age=60), events=(event,), of=DATA) == said
    assert _said(_pod(owner, age=10), events=(event,), of=DATA) == []


def test_v15_a_deployment_whose_pods_are_refused() -> None:
    """By its own status, without the name of the pod, which is another with each try."""
    status = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}
    texts = set()
    for name in ("web-5d4f-abcde", "web-5d4f-fghij"):
        status["message"] = f'pods "{name}" is forbidden: exceeded quota: small'
        live = {"kind": "Deployment", "metadata": {}, "spec": {"replicas": 1}, "status": {"conditions": [status]}}
        texts.add(trouble_of(live))
    (why,) = texts
    assert why is not None
    assert _said(why=why) == [
        ("cell/pod-not-admitted", "its pods are refused: FailedCreate: pods are forbidden: exceeded quota: small")
    ]


def test_pods_of_a_cron_job_are_its_own() -> None:
    """By the name of the Job it made."""
    pod = _pod(("Job", "nightly-29123456"), **_waiting("ErrImagePull"))
    assert [code for code, _ in _said(pod, of=NIGHTLY)] == ["cell/image-not-pulled"]


def test_what_many_pods_say_is_said_once_and_bounded() -> None:
    """With their number; and texts of other programs are cut, on one line."""
    found = _said(*[_pod(**_waiting("ErrImagePull", "no\nsuch " + "x" * 2000)) for _ in range(3)])
    ((_, message),) = found
    assert message.endswith("(3 pods)")
    assert len(message) < 600
    assert "\n" not in message
    many = _said(*[_pod(**_waiting("ErrImagePull", str(number))) for number in range(MOST + 5)])
    assert len(many) == MOST


@pytest.mark.parametrize(
    ("live", "looked_at"),
    [
        ({"kind": "Deployment", "metadata": {}, "spec": {"replicas": 0}, "status": {}}, False),
        ({"kind": "Deployment", "metadata": {}, "spec": {"replicas": 1}, "status": {}}, True),
        ({"kind": "DaemonSet", "metadata": {"generation": 1}, "spec": {}, "status": {}}, True),
        ({"kind": "Job", "metadata": {}, "spec": {}, "status": {"active": 1}}, True),
        (
            {
                "kind": "Job",
                "metadata": {},
                "spec": {},
                "status": {"conditions": [{"type": "Complete", "status": "True"}]},
            },
            False,
        ),
        ({"kind": "CronJob", "metadata": {}, "spec": {}, "status": {"active": [{"name": "nightly-1"}]}}, True),
        ({"kind": "CronJob", "metadata": {}, "spec": {}, "status": {}}, False),
        ({"kind": "Service", "metadata": {}, "spec": {"type": "LoadBalancer"}, "status": {}}, False),
    ],
)
def test_pods_are_looked_at_only_in_trouble(live: dict[str, Any], looked_at: bool) -> None:
    """Whatever is well costs the API server nothing."""
    assert (trouble_of(live) is not None) is looked_at


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"involvedObject": {"kind": "Pod"}, "reason": "Pulled"},
        {"involvedObject": {"kind": "ReplicaSet"}, "reason": "FailedCreate"},
        {"involvedObject": {"kind": "Service"}, "reason": "FailedMount"},
    ],
)
def test_other_events_are_not_kept(event: dict[str, Any]) -> None:
    """Nothing of them."""
    assert event_facts(event) is None


def test_statuses_of_strange_forms_say_nothing() -> None:
    """V16: what nobody foresaw ends nothing."""
    bare = {"metadata": {"name": "p"}}
    assert pod_facts(bare).problems == ()
    assert pod_facts({**bare, "spec": None, "status": {"containerStatuses": [{}], "phase": None}}).problems == ()


_GATE = "cellward-start-gate"
_OPEN = "start gate: open after 30 s, and must be closed: 10.96.0.1:443 (tcp)"


def _gate(state: dict[str, Any], last: dict[str, Any] | None = None) -> Any:
    pod = _pod(initContainerStatuses=[_container(state, last, _GATE)], **_waiting("PodInitializing"))
    pod["spec"]["initContainers"] = [{"name": _GATE, "image": "cellward.local/agent@sha256:0"}]
    return pod


def _shut(code: int, message: str) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": "Error", "message": message, "finishedAt": _at(5)}}


@pytest.mark.parametrize(
    "pod",
    [
        _gate(_shut(1, _OPEN)),
        _gate({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}, _shut(1, _OPEN)),
        _gate({"running": {}}, _shut(1, _OPEN)),
    ],
)
def test_v15_a_shut_start_gate_says_what_stayed_open(pod: Any) -> None:
    """One condition of its own, whether it just ended, waits, or tries again: no word of a crash."""
    assert _said(pod) == [("cell/start-gate-shut", _OPEN)]


def test_a_start_gate_that_let_the_pod_go_on_says_nothing() -> None:
    """It failed before, and is closed now."""
    assert _said(_gate(_shut(0, '{"open":"00","lag_ms":[0,0]}'), _shut(1, _OPEN))) == []


def test_a_start_gate_without_a_word_is_a_crash_like_any_other() -> None:
    """It was killed, or its plan is malformed."""
    ((code, _),) = _said(_gate(_shut(2, "")))
    assert code == "cell/container-crashes"


@pytest.mark.parametrize(
    ("state", "seconds"),
    [
        (_shut(0, '{"open":"0001","lag_ms":[1250,0,900,0]}'), 1.25),
        (_shut(0, '{"open":"0001","lag_ms":[0,0,0,0]}'), 0.0),
        (_shut(1, '{"open":"0001","lag_ms":[1250]}'), None),
        ({"running": {}}, None),
        (_shut(0, ""), None),
        (_shut(0, "[" * 100_000), None),
        (_shut(0, '{"lag_ms":[]}'), None),
        (_shut(0, '{"lag_ms":"12"}'), None),
        (_shut(0, '{"lag_ms":[true]}'), None),
        (_shut(0, '{"lag_ms":[-1]}'), None),
        (_shut(0, '{"lag_ms":[1e400]}'), None),
        (_shut(0, '{"lag_ms":[90000000]}'), None),
        (_shut(0, "[1]"), None),
    ],
)
def test_v16_how_long_a_pod_was_open_is_what_its_gate_wrote(state: dict[str, Any], seconds: float | None) -> None:
    """A node may write anything there: what is no such number is none."""
    assert pod_facts(_gate(state)).open_seconds == seconds
    other = _gate(state)
    other["status"]["initContainerStatuses"][0]["name"] = "own"
    assert pod_facts(other).open_seconds is None
