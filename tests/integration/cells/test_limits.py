"""What a cell refuses, withholds and holds back on a real API server (V8, V13, V14, V16)."""

from __future__ import annotations

from typing import Any

import pytest

from agent.spool.errors import FULL
from cellward.documents.facts import Selector
from cellward.policy.model import Staleness
from tests.fakes.cell_world import World, cell_yaml, service_yaml
from tools.stack.api import ApiClient
from tools.stack.chart import AGENT_USER

pytestmark = pytest.mark.real

_JSON_PATCH = "application/json-patch+json"
GUARD = "admissionregistration.k8s.io/v1"


def _manifest(cell: str, kind: str, name: str, version: str = "v1") -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": f"shop--{cell}--dev"}}


async def test_unsigned_foreign_and_misplaced_documents_are_refused(world: World, admin: ApiClient, cell: str) -> None:
    """Each lie of a hub has its own code, and none leaves a namespace behind."""
    release = world.release(cell_yaml(cell))
    cases = {
        "document/no-valid-signature": world.deployment(cell, release, signer=world.stranger),
        "cell/selector-does-not-match": world.deployment(cell, release, cluster_selector=Selector(names=("us-1",))),
        "cell/document-mismatch": world.deployment("other", release),
        "document/wrong-kind": release,
    }
    for code, digest in cases.items():
        receipt = await world.submit(world.item(cell, digest))
        assert [refusal.code for refusal in receipt.refusals] == [code]
        assert all(refusal.reason and refusal.next for refusal in receipt.refusals)
    stranger = world.release(cell_yaml(cell, "2.0.0"), signer=world.stranger)
    receipt = await world.submit(world.item(cell, world.deployment(cell, stranger)))
    assert receipt.refusals[0].code == "document/no-valid-signature"
    assert not admin.request("GET", f"/api/v1/namespaces/shop--{cell}--dev").ok
    codes = {record["code"] for record in await world.records()}
    assert set(cases) <= codes


async def test_environment_and_project_come_from_own_facts(world: World, cell: str) -> None:
    """The hub may say what it likes; the facts of the cluster decide."""
    digest = world.deployment(cell, world.release(cell_yaml(cell)))
    world.facts = type(world.facts)(name="eu-1", uid="u-1", environments=("prod",), production=True, projects=("shop",))
    receipt = await world.submit(world.item(cell, digest))
    assert receipt.refusals[0].code == "cell/environment-not-here"
    world.facts = type(world.facts)(name="eu-1", uid="u-1", environments=("dev",), production=False, projects=("x",))
    receipt = await world.submit(world.item(cell, digest))
    assert receipt.refusals[0].code == "cell/project-not-allowed"


async def test_floor_refuses_older_and_equal_other(world: World, cell: str) -> None:
    """A replayed Deployment is refused; two with one sequence are a finding."""
    release = world.release(cell_yaml(cell))
    old = world.deployment(cell, release)
    new = world.deployment(cell, release)
    equal = world.deployment(cell, release, sequence=world.sequence, confirm_prune=7)
    assert (await world.submit(world.item(cell, new))).accepted
    assert (await world.submit(world.item(cell, old))).refusals[0].code == "document/older-sequence"
    assert (await world.submit(world.item(cell, equal))).refusals[0].code == "document/equal-sequence-other-digest"
    assert world.report(cell).deployment_digest == new
    assert any(record["decision"] == "finding" for record in await world.records())


async def test_v14_brake_holds_until_an_author_confirms(world: World, admin: ApiClient, cell: str) -> None:
    """More than three objects, and more than 30 %, do not go in one change; nothing changes before that."""
    many = "".join(service_yaml(f"part{n}") for n in range(4))
    assert (await world.deploy(cell_yaml(cell, "1.0.0", many), cell)).accepted
    fewer = cell_yaml(cell, "1.1.0", service_yaml("part0", image="registry.example/web:2"))
    receipt = await world.deploy(fewer, cell)
    assert receipt.refusals[0].code == "apply/prune-needs-confirmation"
    kept = admin.get(_manifest(cell, "Deployment", "part0", "apps/v1")).body
    assert kept["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example/web:1"
    assert admin.get(_manifest(cell, "Deployment", "part3", "apps/v1")).ok
    assert (await world.deploy(fewer, cell, confirm_prune=9)).accepted
    assert not admin.get(_manifest(cell, "Deployment", "part3", "apps/v1")).ok


async def test_hold_keeps_what_runs_and_quarantine_closes_it(world: World, admin: ApiClient, cell: str) -> None:
    """The hub narrows: nothing moves, then nothing connects; lifting returns to what was signed."""
    await world.deploy(cell_yaml(cell), cell)
    running = world.report(cell).deployment_digest
    newer = world.deployment(cell, world.release(cell_yaml(cell, "1.1.0")))
    await world.engine.submit(world.item(cell, newer, hub_state="hold"))
    await world.phase(cell, "held")
    assert world.report(cell).deployment_digest == running
    inside = _manifest(cell, "NetworkPolicy", "allow-within-cell", "networking.k8s.io/v1")
    assert admin.get(inside).body["spec"]["ingress"]
    await world.engine.submit(world.item(cell, running, hub_state="quarantine"))
    await world.until(lambda: not admin.get(inside).body["spec"].get("ingress"))
    assert admin.get(_manifest(cell, "Deployment", "web", "apps/v1")).ok
    receipt = await world.submit(world.item(cell, newer))
    assert receipt.accepted, receipt.refusals
    assert admin.get(inside).body["spec"]["ingress"]


async def test_v8_stale_policy_takes_no_new_deployment_and_repairs_go_on(
    world: World, admin: ApiClient, cell: str
) -> None:
    """Staleness withholds; it never stops drift repair."""
    await world.deploy(cell_yaml(cell), cell)
    world.policy.stale = Staleness(100, 10, "refuse-new")
    newer = world.deployment(cell, world.release(cell_yaml(cell, "1.1.0")))
    await world.engine.submit(world.item(cell, newer))
    await world.until(lambda: [r.code for r in world.report(cell).refusals] == ["apply/policy-stale"])
    service = _manifest(cell, "Service", "web")
    assert admin.delete(service).ok
    await world.until(lambda: admin.get(service).ok)
    world.policy.stale = Staleness(0, 10, "fresh")
    world.engine.reconsider()
    await world.phase(cell, "ready")
    assert world.report(cell).deployment_digest == newer


async def test_v12_broken_fence_stops_releases_and_not_repairs(world: World, admin: ApiClient, cell: str) -> None:
    """A changed admission policy is a finding and a red condition until the chart is back."""
    await world.deploy(cell_yaml(cell), cell)
    name = {"name": "cellward-cell-labels"}
    policy = {"apiVersion": GUARD, "kind": "ValidatingAdmissionPolicyBinding", "metadata": name}
    path = f"/apis/{GUARD}/validatingadmissionpolicybindings/cellward-cell-labels"
    before = admin.get(policy).body["spec"]["validationActions"]

    def actions(value: list[str]) -> None:
        change = [{"op": "replace", "path": "/spec/validationActions", "value": value}]
        assert admin.request("PATCH", path, change, content_type=_JSON_PATCH).ok

    def red() -> bool:
        return any(one.name == "admission-guard" and not one.ok for one in world.health.get())

    actions(["Audit"])
    try:
        await world.until(red)
        newer = world.deployment(cell, world.release(cell_yaml(cell, "1.1.0")))
        await world.engine.submit(world.item(cell, newer))
        await world.until(lambda: [r.code for r in world.report(cell).refusals] == ["apply/admission-guard"])
        service = _manifest(cell, "Service", "web")
        assert admin.delete(service).ok
        await world.until(lambda: admin.get(service).ok)
    finally:
        actions(before)
    await world.until(lambda: not red())
    await world.phase(cell, "ready")
    assert world.report(cell).deployment_digest == newer
    assert any(record["action"] == "fence.finding" for record in await world.records())


async def test_v13_full_spool_blocks_releases_and_never_repairs(
    world: World, admin: ApiClient, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing new without a record; what is released comes back without one, and the loss is counted."""
    await world.deploy(cell_yaml(cell), cell)

    async def full(*_: object, **__: object) -> int:
        raise FULL("the disk is full")

    monkeypatch.setattr(world.state.audit, "append", full)
    service = _manifest(cell, "Service", "web")
    assert admin.delete(service).ok
    await world.until(lambda: admin.get(service).ok)
    await world.until(lambda: world.recorder.lost > 0)
    newer = world.deployment(cell, world.release(cell_yaml(cell, "1.1.0")))
    await world.engine.submit(world.item(cell, newer))
    await world.until(lambda: [r.code for r in world.report(cell).refusals] == ["spool/full"])
    monkeypatch.undo()
    await world.until(lambda: world.report(cell).deployment_digest == newer)


async def test_deleted_namespace_is_made_again_isolation_first(world: World, admin: ApiClient, cell: str) -> None:
    """A cluster-admin deletes the namespace; the whole cell comes back."""
    await world.deploy(cell_yaml(cell), cell)
    place = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"shop--{cell}--dev"}}
    uid = admin.get(place).body["metadata"]["uid"]
    assert admin.delete(place).ok
    targets = [
        _manifest(cell, "NetworkPolicy", "default-deny", "networking.k8s.io/v1"),
        _manifest(cell, "Deployment", "web", "apps/v1"),
        _manifest(cell, "Service", "web"),
    ]

    def back() -> bool:
        now = admin.get(place)
        return now.ok and now.body["metadata"]["uid"] != uid and all(admin.get(target).ok for target in targets)

    await world.until(back, seconds=40)
    policy, deployment = admin.get(targets[0]).body, admin.get(targets[1]).body
    assert policy["metadata"]["creationTimestamp"] <= deployment["metadata"]["creationTimestamp"]


async def test_v11_immutable_change_needs_replace(world: World, admin: ApiClient, cell: str) -> None:
    """A job's template cannot change in place; a release that says so may replace it."""
    job = "    once:\n      type: job\n      image: registry.example/once:{}\n"
    await world.deploy(cell_yaml(cell, "1.0.0", job.format(1)), cell)
    target = _manifest(cell, "Job", "once", "batch/v1")
    uid = admin.get(target).body["metadata"]["uid"]
    receipt = await world.deploy(cell_yaml(cell, "1.1.0", job.format(2)), cell)
    assert receipt.refusals[0].code == "apply/needs-replace"
    assert admin.get(target).body["metadata"]["uid"] == uid
    release = world.release(cell_yaml(cell, "1.2.0", job.format(2)), replace=True)
    receipt = await world.submit(world.item(cell, world.deployment(cell, release)))
    assert receipt.accepted, receipt.refusals
    assert admin.get(target).body["metadata"]["uid"] != uid


async def test_unhealthy_release_returns_to_its_fallback(world: World, admin: ApiClient, cell: str) -> None:
    """There is no node, so a pod never runs: past the deadline the fallback release runs again, and it is said."""
    good = world.release(cell_yaml(cell))
    assert (await world.submit(world.item(cell, world.deployment(cell, good)))).accepted
    await world.phase(cell, "ready")
    bad = world.release(cell_yaml(cell, "1.1.0", service_yaml(replicas=1)))
    item = world.item(cell, world.deployment(cell, bad, fallback=good, rollout={"deadlineSeconds": 1}))
    await world.submit(item)
    await world.until(lambda: world.report(cell).release_digest == good and world.report(cell).phase == "degraded")
    assert world.report(cell).refusals[0].code == "cell/not-healthy"
    await world.until(lambda: not world.receipts[-1].accepted)
    live = admin.get(_manifest(cell, "Deployment", "web", "apps/v1")).body
    assert live["spec"]["replicas"] == 0


async def test_coalescing_takes_only_the_newest(world: World, cell: str) -> None:
    """Items that were not taken up are replaced, and get no receipt of their own."""
    release = world.release(cell_yaml(cell))
    items = [world.item(cell, world.deployment(cell, release)) for _ in range(5)]
    for item in items:
        await world.engine.submit(item)
    await world.until(lambda: any(r.revision == items[-1].revision for r in world.receipts))
    assert [r.revision for r in world.receipts] == [items[-1].revision]


async def test_missing_document_is_waited_for(world: World, cell: str) -> None:
    """What the hub does not have yet is asked for again; it is no refusal."""
    digest = world.deployment(cell, world.release(cell_yaml(cell)))
    envelope = world.hub.documents.pop(digest)
    await world.engine.submit(world.item(cell, digest))
    await world.until(lambda: [r.code for r in world.report(cell).refusals] == ["cell/document-missing"])
    assert not world.receipts
    world.hub.documents[digest] = envelope
    await world.phase(cell, "ready")


async def test_v16_fault_of_one_cell_leaves_the_others_alone(
    world: World, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception nobody expected is a refusal of that cell with its own code, and the process lives."""
    original = world.hub.fetch_digest
    bad = "sha256:" + "0" * 64

    async def broken(digest: str, limit: int) -> bytes | None:
        if digest == bad:
            raise RuntimeError("boom")
        return await original(digest, limit)

    monkeypatch.setattr(world.hub, "fetch_digest", broken)
    await world.engine.submit(world.item(f"{cell}x", bad))
    await world.until(lambda: [r.code for r in world.report(f"{cell}x").refusals] == ["apply/unexpected"])
    assert "boom" not in world.report(f"{cell}x").refusals[0].reason
    assert (await world.deploy(cell_yaml(cell), cell)).accepted


async def test_tampering_past_the_guard_needs_the_agents_name(world: World, admin: ApiClient, cell: str) -> None:
    """The control of the drift tests: without impersonating the agent, the guard refuses."""
    await world.deploy(cell_yaml(cell), cell)
    policy = _manifest(cell, "NetworkPolicy", "default-deny", "networking.k8s.io/v1")
    assert admin.delete(policy).status == 403
    assert admin.delete(policy, user=AGENT_USER).ok


async def test_v11_v15_quota_that_no_dry_run_sees_leads_back_to_the_fallback(
    world: World, admin: ApiClient, cell: str
) -> None:
    """Each new Service alone would fit, so every dry run is fine; the refusal names quota and object."""
    good = world.release(cell_yaml(cell))
    assert (await world.submit(world.item(cell, world.deployment(cell, good)))).accepted
    await world.phase(cell, "ready")
    quota = {**_manifest(cell, "ResourceQuota", "few-services"), "spec": {"hard": {"count/services": "2"}}}
    assert admin.apply(quota, manager="somebody").ok
    await world.until(lambda: admin.get(quota).body.get("status", {}).get("used", {}).get("count/services") == "1")
    more = service_yaml() + service_yaml("zoo1") + service_yaml("zoo2")
    bad = world.release(cell_yaml(cell, "1.1.0", more))
    digest = world.deployment(cell, bad, fallback=good, rollout={"deadlineSeconds": 3})
    receipt = await world.submit(world.item(cell, digest))
    (refusal,) = receipt.refusals
    assert (refusal.code, refusal.rule, refusal.object) == (
        "kube/quota", "few-services", f"Service/shop--{cell}--dev/zoo2",
    )  # fmt: skip
    assert admin.get(_manifest(cell, "Service", "zoo1")).ok
    await world.until(lambda: world.report(cell).release_digest == good and world.report(cell).phase == "degraded")
    assert not admin.get(_manifest(cell, "Service", "zoo1")).ok
    assert world.report(cell).refusals[0].code == "cell/not-healthy"


async def test_v11_new_version_alone_replaces_no_job(world: World, admin: ApiClient, cell: str) -> None:
    """The template of a Job cannot change; a release of something else must not need permission to replace things."""
    parts = service_yaml() + "    once:\n      type: job\n      image: registry.example/once:1\n"
    assert (await world.deploy(cell_yaml(cell, "1.0.0", parts), cell)).accepted
    target = _manifest(cell, "Job", "once", "batch/v1")
    uid = admin.get(target).body["metadata"]["uid"]
    receipt = await world.deploy(cell_yaml(cell, "1.1.0", parts.replace("web:1", "web:2")), cell)
    assert receipt.accepted, receipt.refusals
    assert admin.get(target).body["metadata"]["uid"] == uid


async def test_v11_v15_refusal_by_the_cluster_says_what_it_leaves(world: World, admin: ApiClient, cell: str) -> None:
    """A new cell whose objects the API server refuses: which object, and that its namespace is there, empty."""
    bad = "    raw:\n      type: manifests\n      manifests:\n        - apiVersion: v1\n          kind: Service\n"
    bad += "          metadata: {name: raw}\n          spec: {ports: [{port: 99999}]}\n"
    receipt = await world.deploy(cell_yaml(cell, "1.0.0", bad), cell)
    (refusal,) = receipt.refusals
    assert (refusal.code, refusal.object) == ("kube/invalid", f"Service/shop--{cell}--dev/raw")
    assert f"shop--{cell}--dev is left as an empty, isolated namespace" in refusal.next
    assert admin.get(_manifest(cell, "NetworkPolicy", "default-deny", "networking.k8s.io/v1")).ok
