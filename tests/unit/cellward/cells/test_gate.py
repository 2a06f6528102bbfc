"""The start gate (V9): first in every pod of a cell, and it tries only what is closed to it for sure."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from cellward.cells.gate import StartGate
from cellward.cells.gated import GATE, gate_images, keep_gate, without_gate
from cellward.cells.render import RenderedCell, render
from cellward.cells.stamps import PLACEHOLDER
from cellward.errors import CellwardError
from tests.unit.cellward.cells.sample import FACTS, cell, component, found, release_of, rendered

IMAGE = "cellward.local/agent@sha256:" + "0" * 64
GATED = StartGate(IMAGE, ("10.96.0.1", 443))
_POD = {"containers": [{"name": "x", "image": "registry.test/x:1"}], "initContainers": [{"name": "own"}]}
_TEMPLATE = {"metadata": {"labels": {"app": "x"}}, "spec": _POD}


def gated(*cells: dict[str, Any], gate: StartGate = GATED) -> RenderedCell:
    """Render the last cell with a gate."""
    return render(release_of(*cells), FACTS, "dev", PLACEHOLDER, gate)


def pods_of(out: RenderedCell) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the pod spec of everything that makes pods."""
    found_: dict[tuple[str, str], dict[str, Any]] = {}
    for item in out.objects:
        spec = item.get("spec") or {}
        spec = spec["jobTemplate"]["spec"] if item["kind"] == "CronJob" else spec
        if "template" in spec:
            found_[item["kind"], item["metadata"]["name"]] = spec["template"]["spec"]
    return found_


def aims_of(out: RenderedCell, name: str = "web") -> dict[tuple[str, str], bool]:
    """Return what the gate of a component tries, and whether it must be closed."""
    (gate,) = found(out, "Deployment", name)["spec"]["template"]["spec"]["initContainers"]
    (plan,) = [one["value"] for one in gate["env"] if one["name"] == "PROBE_PLAN"]
    return {(one["to"], one["how"]): one["closed"] for one in json.loads(plan)["targets"]}


def raw(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Return a raw manifest."""
    version = "batch/v1" if "Job" in kind else "apps/v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": kind.lower()}, "spec": spec}


def every_kind() -> dict[str, Any]:
    """Return a cell with every kind that makes pods, of components and raw."""
    template = {"template": copy.deepcopy(_TEMPLATE)}
    manifests = [
        raw("DaemonSet", template), raw("Deployment", template), raw("StatefulSet", template), raw("Job", template),
        raw("CronJob", {"schedule": "@daily", "jobTemplate": {"spec": template}}),
    ]  # fmt: skip
    plain = {"type": "worker", "image": "registry.test/w:1"}
    return cell(
        components={
            "web": component(), "data": component(type="stateful"), "worker": plain, "once": {**plain, "type": "job"},
            "daily": {**plain, "type": "cronjob", "schedule": "@daily"},
            "raw": {"type": "manifests", "manifests": manifests},
        }
    )  # fmt: skip


def test_v9_every_pod_begins_with_the_gate() -> None:
    """Whatever kind makes it, and before whatever the release lets run first."""
    plain, out = pods_of(rendered(every_kind())), pods_of(gated(every_kind()))
    assert len(out) == len(plain) == 10
    for name, pod in out.items():
        first, *others = pod["initContainers"]
        assert (first["name"], first["image"], first["args"]) == (GATE, IMAGE, ["gate"]), name
        assert others == plain[name].get("initContainers", []), name
        assert {**pod, "initContainers": others} == {**plain[name], "initContainers": others}, name


def test_without_a_gate_nothing_changes() -> None:
    """An installation that does not ask for it renders what it always did."""
    assert not any("cellward-start-gate" in json.dumps(item) for item in rendered(every_kind()).objects)
    assert rendered(cell()) == render(release_of(cell()), FACTS, "dev", PLACEHOLDER, None)


def test_the_gate_meets_the_restricted_standard_by_itself() -> None:
    """A raw manifest may say anything of its pod: every field that counts is said of the container."""
    gate = gated(cell()).objects[-1]["spec"]["template"]["spec"]["initContainers"][0]
    security = gate["securityContext"]
    assert security["runAsNonRoot"] is security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is security["privileged"] is False
    assert (security["runAsUser"], security["capabilities"]) == (65532, {"drop": ["ALL"]})
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert set(gate["resources"]) == {"requests", "limits"}


def test_v10_what_is_tried_is_closed_and_known_to_answer() -> None:
    """API server, agent and kubelet must be closed; the name server must not, so that a mute pod proves nothing."""
    answers = "cellward-agent-answers.cellward-system.svc:7445"
    closed = {("10.96.0.1:443", "tcp"), (answers, "tcp"), (answers, "udp"), ("NODE:10250", "tcp")}
    aims = aims_of(gated(cell()))
    assert {aim for aim, shut in aims.items() if shut} == closed
    assert {aim for aim, shut in aims.items() if not shut} == {("RESOLVER:53", "dns")}
    elsewhere = StartGate(IMAGE, ("fd00::1", 6443), "platform")
    assert {("[fd00::1]:6443", "tcp"), ("cellward-agent-answers.platform.svc:7445", "udp")} <= set(
        aims_of(gated(cell(), gate=elsewhere))
    )


@pytest.mark.parametrize(
    ("port", "protocol", "left_out"),
    [
        (443, "TCP", {("10.96.0.1:443", "tcp")}),
        (6443, "TCP", {("10.96.0.1:443", "tcp")}),
        (10250, "TCP", {("NODE:10250", "tcp")}),
        (7445, "UDP", {("cellward-agent-answers.cellward-system.svc:7445", "udp")}),
        (443, "UDP", set()),
        (8443, "TCP", set()),
    ],
)
def test_v10_what_a_range_may_hold_is_left_out(port: int, protocol: str, left_out: set[tuple[str, str]]) -> None:
    """Of the components that may use it: the range may hold the end itself, and then it is open by right."""
    ranged = cell(
        components={"web": component(), "other": component()},
        connections=[
            {
                "external": {"cidr": "203.0.113.0/24", "ports": [{"port": port, "protocol": protocol}]},
                "components": ["web"],
            }
        ],
    )
    out = gated(ranged)
    assert set(aims_of(out, "other")) - set(aims_of(out)) == left_out
    assert set(aims_of(out, "other")) == set(aims_of(gated(cell())))


def test_a_component_without_a_proof_is_told() -> None:
    """Nothing of what a gate tries is closed to it for sure: it gets none, and the cell says so (V15)."""
    ports = [
        {"port": port, "protocol": how} for port, how in ((443, "TCP"), (7445, "TCP"), (7445, "UDP"), (10250, "TCP"))
    ]
    wide = cell(
        components={"web": component(), "other": component()},
        connections=[{"external": {"cidr": "0.0.0.0/0", "ports": ports}, "components": ["web"]}],
    )
    out = gated(wide)
    assert "initContainers" not in found(out, "Deployment", "web")["spec"]["template"]["spec"]
    assert "initContainers" in found(out, "Deployment", "other")["spec"]["template"]["spec"]
    told = [one.subject for one in out.conditions if one.code == "cells/nothing-to-try-at-start"]
    assert told == ["spec.components.web"]
    assert not [one for one in rendered(wide).conditions if one.code == "cells/nothing-to-try-at-start"]


@pytest.mark.parametrize("field", ["containers", "initContainers"])
@pytest.mark.parametrize("kind", ["Deployment", "CronJob"])
def test_nobody_else_has_its_name(kind: str, field: str) -> None:
    """Policy lets the gate through by its name, and an agent reads what it found by it."""
    template = {"template": {"metadata": {}, "spec": {**_POD, field: [{"name": GATE, "image": IMAGE}]}}}
    spec = {"schedule": "@daily", "jobTemplate": {"spec": template}} if kind == "CronJob" else template
    with pytest.raises(CellwardError) as caught:
        release_of(cell(components={"raw": {"type": "manifests", "manifests": [raw(kind, spec)]}}))
    assert caught.value.code == "cells/bad-field"
    assert GATE in caught.value.message


def test_images_of_gates_are_told_to_policy() -> None:
    """One for all, however many pods; none where there is no gate."""
    assert gate_images(gated(every_kind()).objects) == (IMAGE,)
    assert gate_images(rendered(every_kind()).objects) == ()


def test_a_job_that_stands_keeps_its_gate() -> None:
    """Its template cannot change (V11): no gate that came, went or changed calls for replace."""
    newer = StartGate(IMAGE.replace("0" * 64, "1" * 64), ("10.96.0.1", 443))
    jobs = [
        next(one for one in out.objects if (one["kind"], one["metadata"]["name"]) == ("Job", name))
        for name in ("once", "job")
        for out in (rendered(every_kind()), gated(every_kind()), gated(every_kind(), gate=newer))
    ]
    for one in jobs[:3]:
        for known in jobs[:3]:
            assert keep_gate(one, known)["spec"] == known["spec"]
    for one in jobs[3:]:
        for known in jobs[3:]:
            assert keep_gate(one, known)["spec"] == known["spec"]
    changed = copy.deepcopy(jobs[1])
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.test/w:2"
    assert keep_gate(changed, jobs[0]) == changed, "what needs another Job gets the gate of today"
    deployment = found(gated(cell()), "Deployment", "web")
    assert keep_gate(deployment, found(rendered(cell()), "Deployment", "web")) == deployment


def test_without_gate_leaves_the_rest() -> None:
    """What others let run first stays."""
    with_gate = {"spec": {**_POD, "initContainers": [{"name": GATE}, *_POD["initContainers"]]}}
    assert without_gate(with_gate) == {"spec": _POD}
