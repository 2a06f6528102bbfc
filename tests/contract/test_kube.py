"""What every KubeApi promises, on the fake and on a real API server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent.kube.client import KubeClient
from agent.kube.interfaces import KubeApi, ObjectRef, WatchEvent, WatchType, ref_of
from agent.objects.ownership import takeover
from cellward.errors import CellwardError
from tests.fakes.kube import FakeKube

_numbers = itertools.count(1)


_REAL = (pytest.mark.real, pytest.mark.xdist_group("control-plane"))


@pytest.fixture(params=["fake", pytest.param("real", marks=_REAL)])
async def kube(request: pytest.FixtureRequest) -> AsyncIterator[KubeApi]:
    """Return each implementation in turn, as somebody with all rights."""
    if request.param == "fake":
        yield FakeKube()
        return
    client = await KubeClient.connect(request.getfixturevalue("control_plane").kubeconfig_admin)
    yield client
    await client.close()


@pytest.fixture
async def namespace(kube: KubeApi) -> str:
    """Return a fresh namespace."""
    name = f"contract-{next(_numbers)}"
    await kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, manager="test")
    return name


def _config(
    namespace: str, name: str = "settings", labels: dict[str, str] | None = None, **data: str
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    if labels:
        metadata["labels"] = labels
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _deployment(namespace: str, *containers: str) -> dict[str, Any]:
    labels = {"app": "x"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": c, "image": f"{c}:1"} for c in containers]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": pod}
    metadata = {"name": "web", "namespace": namespace}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


async def _code(call: Any) -> str:
    with pytest.raises(CellwardError) as caught:
        await call
    return caught.value.code


async def test_apply_creates_and_a_repetition_changes_nothing(kube: KubeApi, namespace: str) -> None:
    """Same manifest, same version."""
    first = await kube.apply(_config(namespace, a="1"), manager="one")
    again = await kube.apply(_config(namespace, a="1"), manager="one")
    assert first["metadata"]["uid"]
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert (await kube.get(ref_of(first)))["data"] == {"a": "1"}


async def test_apply_removes_what_it_no_longer_states(kube: KubeApi, namespace: str) -> None:
    """Only its own fields; those of others stay."""
    await kube.apply(_config(namespace, a="1", b="2"), manager="one")
    await kube.apply(_config(namespace, c="3"), manager="two")
    now = await kube.apply(_config(namespace, a="1"), manager="one")
    assert now["data"] == {"a": "1", "c": "3"}


async def test_apply_of_a_foreign_field_is_a_conflict_that_names_the_manager(kube: KubeApi, namespace: str) -> None:
    """V16: without force nothing changes; with force it does."""
    await kube.apply(_config(namespace, a="1"), manager="one")
    with pytest.raises(CellwardError) as caught:
        await kube.apply(_config(namespace, a="2"), manager="two")
    assert caught.value.code == "kube/field-conflict"
    assert "one" in caught.value.details["managers"]
    ref = ref_of(_config(namespace))
    assert (await kube.get(ref))["data"] == {"a": "1"}
    assert (await kube.apply(_config(namespace, a="2"), manager="two", force=True))["data"] == {"a": "2"}


async def test_dry_run_has_no_effect(kube: KubeApi, namespace: str) -> None:
    """Neither by apply nor by create."""
    tried = await kube.apply(_config(namespace, a="1"), manager="one", dry_run=True)
    assert tried["data"] == {"a": "1"}
    await kube.create_dry_run(_config(namespace, a="1"), manager="one")
    assert await _code(kube.get(ref_of(_config(namespace)))) == "kube/not-found"


async def test_absent_namespace_is_not_found(kube: KubeApi) -> None:
    """Also for a dry run; hence isolation is applied for real before it."""
    assert await _code(kube.apply(_config("absent", a="1"), manager="one")) == "kube/not-found"
    assert await _code(kube.create_dry_run(_config("absent", a="1"), manager="one")) == "kube/not-found"


async def test_unknown_field_is_invalid_and_never_retried(kube: KubeApi, namespace: str) -> None:
    """The API server answers 500 to this under apply; we must not take it for an outage."""
    bad = {**_config(namespace), "nonsense": 1}
    assert await _code(kube.create_dry_run(bad, manager="one")) == "kube/invalid"
    assert await _code(kube.apply(bad, manager="one")) == "kube/invalid"


async def test_creating_what_exists_is_stale(kube: KubeApi, namespace: str) -> None:
    """A dry-run creation of something that is there."""
    await kube.apply(_config(namespace, a="1"), manager="one")
    assert await _code(kube.create_dry_run(_config(namespace, a="1"), manager="one")) == "kube/stale"


async def test_delete_only_the_object_that_was_meant(kube: KubeApi, namespace: str) -> None:
    """By uid and by version."""
    live = await kube.apply(_config(namespace, a="1"), manager="one")
    ref = ref_of(live)
    assert await _code(kube.delete(ref, uid="00000000-0000-4000-8000-000000000000")) == "kube/stale"
    assert await _code(kube.delete(ref, resource_version="1")) == "kube/stale"
    await kube.delete(ref, uid=live["metadata"]["uid"])
    assert await _code(kube.delete(ref)) == "kube/not-found"


async def test_patch_is_optimistic(kube: KubeApi, namespace: str) -> None:
    """An old version is stale, and nothing changed."""
    live = await kube.apply(_config(namespace, a="1"), manager="one")
    change = {"op": "replace", "path": "/data/a", "value": "2"}
    version = {"op": "replace", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]}
    assert (await kube.patch_json(ref_of(live), [change, version], manager="two"))["data"] == {"a": "2"}
    again = {"op": "replace", "path": "/data/a", "value": "3"}
    assert await _code(kube.patch_json(ref_of(live), [again, version], manager="two")) == "kube/stale"
    assert (await kube.get(ref_of(live)))["data"] == {"a": "2"}


async def test_taking_over_foreign_fields_lets_apply_remove_them(kube: KubeApi, namespace: str) -> None:
    """The heart of drift repair: a forced apply alone leaves the sidecar, with the takeover it goes."""
    await kube.apply(_deployment(namespace, "app"), manager="ours")
    ref = ref_of(_deployment(namespace))
    sidecar = {"op": "add", "path": "/spec/template/spec/containers/-", "value": {"name": "evil", "image": "evil:1"}}
    await kube.patch_json(ref, [sidecar], manager="them")
    alone = await kube.apply(_deployment(namespace, "app"), manager="ours", force=True)
    assert [c["name"] for c in alone["spec"]["template"]["spec"]["containers"]] == ["app", "evil"]
    while True:  # a controller may write its status in between
        try:
            await kube.patch_json(ref, takeover(await kube.get(ref), "ours"), manager="ours")
            break
        except CellwardError as error:
            if error.code != "kube/stale":
                raise
    now = await kube.apply(_deployment(namespace, "app"), manager="ours", force=True)
    assert [c["name"] for c in now["spec"]["template"]["spec"]["containers"]] == ["app"]


async def test_list_selects_by_namespace_and_label(kube: KubeApi, namespace: str) -> None:
    """Objects come whole, with apiVersion and kind."""
    await kube.apply(_config(namespace, "a", {"team": "blue"}), manager="one")
    await kube.apply(_config(namespace, "b"), manager="one")
    found = await kube.list("v1", "ConfigMap", namespace=namespace, label_selector="team=blue")
    assert [(one["kind"], one["metadata"]["name"]) for one in found] == [("ConfigMap", "a")]


async def test_kinds_are_a_closed_list(kube: KubeApi) -> None:
    """V2: no path for anything else."""
    assert await _code(kube.get(ObjectRef("v1", "PersistentVolume", "", "x"))) == "kube/unknown-kind"
    assert await _code(kube.get(ObjectRef("v1", "ConfigMap", "", "x"))) == "kube/invalid"


async def test_discovery_tells_the_versions_of_a_kind(kube: KubeApi) -> None:
    """Of a kind on the list, and of no other."""
    assert await kube.served_versions("apps/v1", "Deployment") == ("v1",)
    assert await _code(kube.served_versions("apps/v1", "ControllerRevision")) == "kube/unknown-kind"


async def test_watch_tells_the_whole_list_and_then_what_happens(kube: KubeApi, namespace: str) -> None:
    """RESTARTED, the list, SYNCED, then additions, changes, and an object that leaves the selector as deleted."""
    labels = {"watched": namespace}
    await kube.apply(_config(namespace, "first", labels), manager="one")
    events = kube.watch("v1", "ConfigMap", label_selector=f"watched={namespace}")
    start = [await _next(events) for _ in range(3)]
    assert [event.type for event in start] == [WatchType.RESTARTED, WatchType.ADDED, WatchType.SYNCED]
    live = await kube.apply(_config(namespace, "second", labels), manager="one")
    await kube.apply(_config(namespace, "second", labels, a="1"), manager="one")
    await kube.apply(_config(namespace, "second", a="1"), manager="one")
    await kube.delete(ref_of(_config(namespace, "first")))
    seen = [await _next(events) for _ in range(4)]
    assert [(event.type, event.object["metadata"]["name"]) for event in seen] == [
        (WatchType.ADDED, "second"),
        (WatchType.MODIFIED, "second"),
        (WatchType.DELETED, "second"),
        (WatchType.DELETED, "first"),
    ]
    assert ref_of(seen[0].object) == ref_of(live)
    await events.aclose()  # type: ignore[attr-defined]


async def _next(events: AsyncIterator[WatchEvent]) -> WatchEvent:
    async with asyncio.timeout(30):
        return await anext(events)
