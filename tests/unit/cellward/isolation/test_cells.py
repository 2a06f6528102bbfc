"""Cells on a cluster: what their rendered policies allow is what their files declare (V9, V10)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings

from cellward.documents.model import Release
from cellward.isolation.cells import Member, members, passages, world_of
from tests.unit.cellward.cells import netpol
from tests.unit.cellward.cells.sample import cell, component, load, releases
from tests.unit.cellward.cells.test_network import ENVIRONMENTS, Place, declared, systems

API = {"api": {"component": "web", "port": "http", "visibility": "project"}}


def place(member: Member, part: str) -> Place:
    """A component of a cell, as the declaration is asked about it."""
    key = member.key
    return Place(netpol.Pod(member.namespace, part, "", {}, {}), key.project, key.cell, key.environment, part)


def between(*placed: tuple[str, Release, bool]) -> dict[str, str]:
    """Verdicts by ``cell>cell port``, of cells that have one component each."""
    found = members(placed)
    world = world_of(found)
    return {
        f"{one.key.cell}>{other.key.cell} {passage.port.port}": passage.verdict
        for one in found
        for other in found
        if one is not other
        for passage in passages(world, one, other)
    }


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(systems())
def test_v10_evaluator_and_declaration_agree(made: list[dict[str, Any]]) -> None:
    """Of every component of every cell and every port of every other, in two environments of one cluster."""
    found = members((where, release, False) for release in releases(load(*made)) for where in ENVIRONMENTS)
    world = world_of(found)
    for one in found:
        for other in found:
            for passage in passages(world, one, other):
                source, target = place(one, passage.source), place(other, passage.destination)
                wanted = declared(made, source, target, passage.port.port, passage.port.protocol)
                assert passage.verdict == ("allowed" if wanted else "denied"), (source, target, passage)


def shop() -> tuple[Release, Release]:
    """A caller and its callee; returned callee first."""
    made = releases(load(cell("data", endpoints=API), cell("front", connections=[{"cell": "data", "endpoint": "api"}])))
    return made[0], made[1]


def test_v10_one_edge_and_nothing_else() -> None:
    """Only from the caller to the callee; in another environment, or quarantined, not even that."""
    data, front = shop()
    assert between(("dev", data, False), ("dev", front, False)) == {
        "front>data 8080": "allowed",
        "data>front 8080": "denied",
    }
    assert between(("dev", data, False), ("prod", front, False))["front>data 8080"] == "denied"
    for shut in ((True, False), (False, True)):
        assert between(("dev", data, shut[0]), ("dev", front, shut[1]))["front>data 8080"] == "denied"


def test_an_edge_whose_sides_differ_is_closed() -> None:
    """As agents do it (ADR 0016): the port the caller was signed for is another endpoint's by now."""
    _, front = shop()
    ports = {"http": {"port": 9090}, "admin": {"port": 8080}}
    endpoints = {**API, "admin": {"component": "web", "port": "admin", "visibility": "project"}}
    later = cell("data", version="2", endpoints=endpoints, components={"web": component(ports=ports)})
    moved = releases(load(later))[0]
    found = members([("dev", moved, False), ("dev", front, False)])
    assert [list(one.shut) for one in found] == [[], ["connection.shop.data.api"]]
    verdicts = between(("dev", moved, False), ("dev", front, False))
    assert verdicts == {"front>data 9090": "denied", "front>data 8080": "denied", "data>front 8080": "denied"}


def test_v9_what_is_judged_are_the_rendered_objects() -> None:
    """A hole in one of them changes the answer, and its absence too."""
    data, front = shop()
    found = members([("dev", data, False), ("dev", front, False)])
    hole = {**found[0].policies[0], "spec": {**found[0].policies[0]["spec"], "ingress": [{}]}}
    for policies in ((*found[0].policies, hole), ()):
        opened = world_of([replace(found[0], policies=(*policies,)) if policies else found[0], found[1]])
        bare = replace(opened, policies=list(policies))
        ingress = [one.judgement.ingress.verdict for one in passages(bare, found[1], found[0])]
        assert ingress == ["allowed"]


def test_pods_of_raw_manifests_are_ends_too() -> None:
    """Their labels and ports come from the templates as they are applied."""
    job = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "raw"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "c", "ports": [{"containerPort": 7000}]}]},
            },
        },
    }  # fmt: skip
    release = releases(load(cell(components={"extra": {"type": "manifests", "manifests": [job]}})))[0]
    pod = members([("dev", release, False)])[0].pods[0]
    assert (pod.labels["cellward.dev/component"], [port.port for port in pod.ports]) == ("extra", [7000])
