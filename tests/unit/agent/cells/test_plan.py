"""Inventory, brake and order (V14)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cells.plan import check_brake, plan_prune
from agent.objects.model import CellRecord, OwnedObject, Role, record_from_json
from agent.objects.order import removal, waves
from cellward.errors import CellwardError


def _owned(kind: str, name: str, role: Role = Role.OBJECT) -> OwnedObject:
    manifest = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "n"}}
    return OwnedObject(manifest, role, uid=name)


def _record(*objects: OwnedObject) -> CellRecord:
    return CellRecord("p", "c", "e", "n", objects=objects)


def test_prune_takes_workloads_first_and_policies_last() -> None:
    """Nothing runs without its isolation, not even on the way out."""
    objects = [_owned("NetworkPolicy", "open", Role.ISOLATION), _owned("ConfigMap", "c"), _owned("Deployment", "d")]
    assert [owned.ref.kind for owned in plan_prune(_record(*objects), []).delete] == [
        "Deployment", "ConfigMap", "NetworkPolicy",
    ]  # fmt: skip


def test_v14_data_namespace_and_rights_are_never_pruned() -> None:
    """Data needs a Tombstone that says so."""
    objects = [
        _owned("PersistentVolumeClaim", "data"),
        _owned("Namespace", "n", Role.NAMESPACE),
        _owned("RoleBinding", "r", Role.RIGHTS),
    ]
    prune = plan_prune(_record(*objects), [])
    assert prune.delete == ()
    assert [owned.ref.name for owned in prune.retain] == ["data"]


@pytest.mark.parametrize(
    ("total", "gone", "signed", "confirmed", "stops"),
    [
        (4, 3, 10, 0, False),
        (4, 4, 10, 0, True),
        (4, 4, 10, 3, True),
        (4, 4, 10, 4, False),
        (20, 6, 10, 0, False),
        (20, 7, 10, 0, True),
        (100, 11, 10, 0, True),
        (100, 10, 10, 0, False),
        (4, 1, 0, 0, True),
    ],
)
def test_v14_brake(total: int, gone: int, signed: int, confirmed: int, stops: bool) -> None:
    """max(3, 30 %), at most the signed limit, unless the author confirms the number."""
    objects = [_owned("ConfigMap", str(n)) for n in range(total)]
    record = _record(*objects)
    prune = plan_prune(record, [owned.ref for owned in objects[gone:]])
    if not stops:
        check_brake(record, prune, signed_limit=signed, confirmed=confirmed)
        return
    with pytest.raises(CellwardError) as caught:
        check_brake(record, prune, signed_limit=signed, confirmed=confirmed)
    assert caught.value.code == "apply/prune-needs-confirmation"
    assert str(gone) in caught.value.hint


def test_waves_put_first_what_others_need() -> None:
    """Configuration before workloads, services before workloads, whatever order they come in."""
    objects = [_owned(kind, "x").manifest for kind in ("Job", "Deployment", "Service", "ConfigMap", "StatefulSet")]
    flat = [obj["kind"] for wave in waves(objects) for obj in wave]
    assert flat == ["ConfigMap", "Service", "StatefulSet", "Deployment", "Job"]


def test_removal_ends_with_the_namespace() -> None:
    """Workloads, the rest, rights, isolation, namespace."""
    objects = [
        _owned("Namespace", "n", Role.NAMESPACE), _owned("NetworkPolicy", "d", Role.ISOLATION),
        _owned("RoleBinding", "r", Role.RIGHTS), _owned("Service", "s"), _owned("Deployment", "d"),
        _owned("HorizontalPodAutoscaler", "h"),
    ]  # fmt: skip
    assert [owned.ref.kind for owned in removal(objects)] == [
        "HorizontalPodAutoscaler", "Deployment", "Service", "RoleBinding", "NetworkPolicy", "Namespace",
    ]  # fmt: skip


@given(st.lists(st.sampled_from(list(Role)), max_size=5), st.booleans(), st.text(max_size=5))
def test_record_survives_its_durable_form(roles: list[Role], settled: bool, version: str) -> None:
    """What is written is what is read."""
    objects = tuple(_owned("ConfigMap", str(n), role) for n, role in enumerate(roles))
    record = CellRecord("p", "c", "e", "n", settled=settled, version=version, objects=objects)
    assert record_from_json(record.to_json()) == record
