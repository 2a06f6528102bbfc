"""Stamps (V10): what a selector asks of a namespace beside its labels, and how one key replaces another."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from cellward.cells.labels import cell_labels, namespace_of
from cellward.cells.render import render
from cellward.cells.stamps import Stamps, is_stamped
from tests.unit.cellward.cells.netpol import Pod, allowed
from tests.unit.cellward.cells.sample import FACTS, cell, component, load, releases

OLD, NEW = b"o" * 32, b"n" * 32
STEPS = (
    Stamps.of(OLD),
    Stamps((NEW, OLD), OLD),
    Stamps((NEW, OLD), NEW),
    Stamps.of(NEW),
)
#: From an older chart, whose namespaces carry none.
UPGRADE = (Stamps((NEW,), None, closed=False), Stamps((NEW,), NEW, closed=False), Stamps.of(NEW))


def _system() -> list[Any]:
    offers = {
        "api": {"component": "web", "port": "http", "visibility": "project"},
    }
    wide = {"all": {"component": "web", "port": "http", "visibility": "organization"}}
    front = [{"cell": "data", "endpoint": "api"}, {"project": "bank", "cell": "ledger", "endpoint": "all"}]
    ports = component(ports={"http": {"port": 8080}})
    return load(
        cell("data", endpoints=offers, components={"web": ports}),
        cell("ledger", "bank", endpoints=wide, components={"web": ports}),
        cell("front", connections=front),
    )


def _rendered(stamps: Stamps) -> dict[tuple[str, str], Any]:
    return {(one.project, one.cell): render(one, FACTS, "dev", stamps) for one in releases(_system())}


def _pod(project: str, name: str, stamps: Stamps | None, number: int) -> Pod:
    place = namespace_of(project, name, "dev")
    labels = cell_labels(project, name, "dev")
    stamped = {} if stamps is None else stamps.of_namespace(project)
    return Pod(
        place, "web", f"10.0.0.{number}", {"cellward.dev/component": "web"},
        {**labels, **stamped, "kubernetes.io/metadata.name": place},
    )  # fmt: skip


EDGES = (("shop", "front", "shop", "data"), ("shop", "front", "bank", "ledger"))


def _passes(edge: tuple[str, str, str, str], policies: Stamps, caller: Stamps | None, callee: Stamps | None) -> bool:
    rendered = _rendered(policies)
    both = [*rendered[edge[:2]].isolation, *rendered[edge[2:]].isolation]
    return allowed(both, _pod(*edge[:2], caller, 1), _pod(*edge[2:], callee, 2), 8080, "TCP")


@pytest.mark.parametrize("edge", EDGES)
def test_v10_either_side_without_its_stamp_is_selected_by_nobody(edge: tuple[str, str, str, str]) -> None:
    """Named by its labels and even by its name; with the stamps of another project's namespace neither."""
    now, other = Stamps.of(NEW), Stamps.of(OLD)
    assert _passes(edge, now, now, now)
    for impostor in (None, other):
        assert not _passes(edge, now, impostor, now)
        assert not _passes(edge, now, now, impostor)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("steps", [STEPS, UPGRADE])
def test_changing_the_key_never_closes_an_edge(edge: tuple[str, str, str, str], steps: tuple[Stamps, ...]) -> None:
    """Cell by cell and object by object: whatever mixture of two neighbouring steps stands, both sides are open."""
    for before, after in itertools.pairwise(steps):
        for policies in (before, after):
            for caller in (before, after):
                for callee in (before, after):
                    assert _passes(edge, policies, caller, callee), (policies, caller, callee)


@pytest.mark.parametrize("first", [*STEPS, *UPGRADE])
@pytest.mark.parametrize("then", [*STEPS, *UPGRADE])
def test_restamping_is_rendering_anew(first: Stamps, then: Stamps) -> None:
    """An agent without the release can renew what it wrote, and nothing but stamps changes."""
    for old, new in zip(_rendered(first).values(), _rendered(then).values(), strict=True):
        assert then.restamp(old.namespace_object) == new.namespace_object
        assert [then.restamp(policy) for policy in old.isolation] == list(new.isolation)
        assert [then.restamp(one) for one in old.objects] == list(old.objects) == list(new.objects)


def test_selectors_of_what_is_no_cell_ask_for_no_stamp() -> None:
    """DNS and the agent's own namespace have none."""
    now = Stamps.of(NEW)
    for name in ("kube-system", "cellward-system", "a--b", "a--b--c--d", "--"):
        selector = {"matchLabels": {"kubernetes.io/metadata.name": name}}
        assert now.require(selector) == selector


def test_stamps_of_projects_and_keys_are_all_different() -> None:
    """Nothing that is known of one says anything of another."""
    seen = [
        value
        for key in (OLD, NEW)
        for project in ("shop", "shop2", "cluster")
        for value in Stamps.of(key).of_namespace(project).values()
    ]
    assert len(set(seen)) == 2 * (3 + 1)


def test_is_stamped_looks_at_both() -> None:
    """A namespace with one of them, or with another project's, is none of ours."""
    now = Stamps.of(NEW)
    whole = {**cell_labels("shop", "web", "dev"), **now.of_namespace("shop")}
    assert is_stamped({"metadata": {"labels": whole}}, now)
    for name in ("cellward.dev/stamp", "cellward.dev/cluster-stamp"):
        assert not is_stamped({"metadata": {"labels": {**whole, name: "x"}}}, now)
    assert not is_stamped({"metadata": {"labels": {**whole, "cellward.dev/project": "bank"}}}, now)
    assert not is_stamped({"metadata": {}}, now)
    assert not is_stamped({"metadata": {"labels": whole}}, UPGRADE[0])
