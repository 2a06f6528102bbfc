"""The watch on the chart's admission policies (V12): anything but exactly the chart's is a finding."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from agent.kube.interfaces import WatchEvent, WatchType
from agent.objects.fence import NAMES, Fence, difference, load_guards
from cellward.runtime.health import HealthRegistry
from tests.fakes.clock import ManualClock
from tests.fakes.recorder import ListRecorder
from tools.stack.chart import CHART_FILES


def _guards() -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["kind"], one["metadata"]["name"]): one for one in load_guards(CHART_FILES)}


def test_chart_has_every_guard_with_its_binding() -> None:
    """What is watched is what is installed."""
    assert set(_guards()) == {(kind, name) for kind in _kinds() for name in NAMES}


def _kinds() -> tuple[str, str]:
    return "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"


@pytest.mark.parametrize("kind", _kinds())
@pytest.mark.parametrize("name", NAMES)
def test_same_is_no_difference_and_missing_is(kind: str, name: str) -> None:
    """Defaults of the API server are no difference."""
    guard = _guards()[(kind, name)]
    live = copy.deepcopy(guard)
    if "matchConstraints" in live["spec"]:
        live["spec"]["matchConstraints"] |= {"namespaceSelector": {}, "objectSelector": {}}
    assert difference(guard, live) == ""
    assert difference(guard, None) == "is missing"
    live["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert difference(guard, live) == "is missing"


@pytest.mark.parametrize(
    "weaken",
    [
        lambda spec: spec.update(failurePolicy="Ignore"),
        lambda spec: spec["validations"].pop(),
        lambda spec: spec["matchConditions"].append({"name": "never", "expression": "false"}),
        lambda spec: spec["matchConstraints"].update(namespaceSelector={"matchLabels": {"a": "b"}}),
        lambda spec: spec["matchConstraints"].update(excludeResourceRules=[{"resources": ["*"]}]),
        lambda spec: spec["matchConstraints"]["resourceRules"][0].update(operations=["CONNECT"]),
        lambda spec: spec.update(paramKind={"apiVersion": "v1", "kind": "ConfigMap"}),
    ],
)
def test_every_way_to_weaken_a_policy_is_seen(weaken: Any) -> None:
    """Additions too: a condition that never holds switches a policy off."""
    guard = _guards()[("ValidatingAdmissionPolicy", "cellward-agent-fence")]
    live = copy.deepcopy(guard)
    weaken(live["spec"])
    assert difference(guard, live).startswith("differs")


@pytest.mark.parametrize("change", [{"validationActions": ["Audit"]}, {"matchResources": {"objectSelector": {}}}])
def test_every_way_to_weaken_a_binding_is_seen(change: dict[str, Any]) -> None:
    """A binding that only audits, or selects less."""
    guard = _guards()[("ValidatingAdmissionPolicyBinding", "cellward-agent-fence")]
    live = copy.deepcopy(guard)
    live["spec"].update(change)
    assert difference(guard, live).startswith("differs")


def test_namespace_of_the_agent_is_put_in() -> None:
    """A chart installed elsewhere is compared with what it says there."""
    text = str(load_guards(CHART_FILES, "other-place"))
    assert "other-place" in text
    assert "cellward-system" not in text


async def test_v12_guards_are_known_while_their_kind_is_listed_again() -> None:
    """A new list of unchanged guards changes nothing; one in which a guard is another object does, once it is whole."""
    fence = Fence(load_guards(CHART_FILES), ListRecorder(), HealthRegistry(ManualClock()))
    live = {key: with_uid(guard, "1") for key, guard in _guards().items()}
    await _listed(fence, live)
    first = fence.fingerprint
    assert fence.intact
    assert first
    for kind in _kinds():
        await fence.handle(kind, WatchEvent(WatchType.RESTARTED, {}))
        assert fence.fingerprint == first
    await _listed(fence, live)
    assert fence.fingerprint == first
    other = (_kinds()[0], NAMES[0])
    await _listed(fence, {**live, other: with_uid(live[other], "2")})
    assert fence.intact
    assert fence.fingerprint not in {"", first}
    await fence.handle(other[0], WatchEvent(WatchType.DELETED, live[other]))
    assert fence.fingerprint == ""


def with_uid(guard: dict[str, Any], uid: str) -> dict[str, Any]:
    """A guard as it lives in a cluster."""
    return {**guard, "metadata": {**guard["metadata"], "uid": uid, "generation": 1}}


async def _listed(fence: Fence, live: dict[tuple[str, str], dict[str, Any]]) -> None:
    for kind in _kinds():
        await fence.handle(kind, WatchEvent(WatchType.RESTARTED, {}))
        for (of_kind, _), one in live.items():
            if of_kind == kind:
                await fence.handle(kind, WatchEvent(WatchType.ADDED, one))
        await fence.handle(kind, WatchEvent(WatchType.SYNCED, {}))
