"""Between fields and between cells: targets, visibility, circles, versions, and what is signed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cellward.cells.conditions import conditions
from cellward.cells.network import intent
from cellward.cells.render import render
from cellward.cells.resolve import resolve_cells
from cellward.cells.spec import build_release, spec_of
from cellward.cells.stamps import PLACEHOLDER
from cellward.documents.canonical import JSON
from cellward.documents.model import Release, build_document, parse_document
from cellward.errors import CellwardError, InvalidInput, Refused, TooNew
from tests.unit.cellward.cells.sample import FACTS, REALM, cell, component, load, release_of, releases
from tests.vectors.generate import ISSUED

API = {"api": {"component": "web", "port": "http", "visibility": "project"}}


def refused(*cells: dict[str, Any], known: Any = None) -> CellwardError:
    """Return why cells cannot be resolved together."""
    with pytest.raises(InvalidInput) as caught:
        resolve_cells(load(*cells), known or {})
    return caught.value


def test_the_peer_is_filled_in() -> None:
    """ADR 0002: service port, pod port, protocol and component of the peer stand in the caller's own spec."""
    data = cell(
        "data", components={"api": component(ports={"dns": {"port": 5353, "servicePort": 53, "protocol": "UDP"}})},
        endpoints={"lookup": {"component": "api", "port": "dns", "visibility": "project"}},
    )  # fmt: skip
    caller = cell(connections=[{"cell": "data", "endpoint": "lookup", "env": "DNS"}])
    spec = resolve_cells(load(data, caller), {})["shop", "web"]
    assert spec["connections"] == [
        {
            "cell": "data", "endpoint": "lookup", "env": "DNS",
            "resolved": {
                "project": "shop", "cell": "data", "component": "api", "service": "api", "servicePort": 53,
                "podPort": 5353, "protocol": "UDP",
            },
        }
    ]  # fmt: skip


def test_a_peer_may_be_released_already() -> None:
    """A cell applied alone resolves against what was released before, to the same spec as together."""
    data, caller = cell("data", endpoints=API), cell(connections=[{"cell": "data", "endpoint": "api"}])
    together = resolve_cells(load(data, caller), {})
    known = {("shop", "data"): together["shop", "data"]}
    alone = resolve_cells(load(caller), known)
    assert alone == {("shop", "web"): together["shop", "web"]}


def test_what_is_applied_now_goes_before_what_was_released() -> None:
    """With both at hand, the caller gets the new port."""
    old = resolve_cells(load(cell("data", endpoints=API)), {})
    moved = cell(
        "data", version="2.0.0", endpoints=API, components={"web": component(ports={"http": {"port": 9090}})}
    )  # fmt: skip
    spec = resolve_cells(load(moved, cell(connections=[{"cell": "data", "endpoint": "api"}])), old)["shop", "web"]
    connections = spec["connections"]
    assert isinstance(connections, list)
    assert isinstance(connections[0], dict)
    resolved = connections[0]["resolved"]
    assert isinstance(resolved, dict)
    assert resolved["podPort"] == 9090


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"endpoints": {"a": {"component": "x", "port": "http"}}}, "cells/unknown-component"),
        ({"endpoints": {"a": {"component": "web", "port": "x"}}}, "cells/unknown-component"),
        ({"connections": [{"cell": "x", "endpoint": "y"}]}, "cells/unknown-target"),
        ({"connections": [{"cell": "web", "endpoint": "y"}]}, "cells/unknown-target"),
        ({"connections": [{"cell": "data", "endpoint": "y"}]}, "cells/unknown-target"),
        ({"connections": [{"cell": "data", "endpoint": "own"}]}, "cells/not-visible"),
        ({"connections": [{"cell": "data", "endpoint": "api"}] * 2}, "cells/duplicate"),
        # One peer under two spellings would become one policy, and one of the two components would lose its edge.
        (
            {
                "connections": [
                    {"cell": "data", "endpoint": "api"},
                    {"project": "shop", "cell": "data", "endpoint": "api"},
                ]
            },
            "cells/duplicate",
        ),
        ({"components": {"default": component()}}, "cells/bad-field"),
        ({"components": {"1web": component()}}, "cells/bad-field"),
        (
            {"components": {"web": component(volumes={"cellward-config": {"mountPath": "/a", "emptyDir": {}}})}},
            "cells/bad-field",
        ),
        *(
            ({"connections": [{"external": {"cidr": cidr, "ports": [{"port": 80}]}}]}, code)
            for cidr, code in (
                ("::ffff:a9fe:a9fe/128", "cells/bad-field"),
                ("::ffff:0:0/96", "cells/bad-field"),
                ("fd20:ce::254/128", "cells/metadata-service"),
                ("64:ff9b::a9fe:a9fe/128", "cells/metadata-service"),
                ("64:ff9b::6464:64c8/128", "cells/metadata-service"),
                ("64:ff9b:1::a9fe:a9fe/128", "cells/metadata-service"),
                ("64:ff9b:1:fffe:a9:fea9:fe00:0/128", "cells/metadata-service"),
                ("64:ff9b:1::/64", "cells/bad-field"),
            )
        ),
        ({"connections": [{"cell": "data", "endpoint": "api", "components": ["x"]}]}, "cells/unknown-component"),
        ({"connections": [{"cell": "data", "endpoint": "api", "components": ["web", "web"]}]}, "cells/duplicate"),
        (
            {"connections": [{"external": {"cidr": "169.254.169.254/32", "ports": [{"port": 80}]}}]},
            "cells/metadata-service",
        ),
        ({"components": {"web": component(ports={"a": {"port": 1}, "b": {"port": 1}})}}, "cells/duplicate"),
        (
            {"components": {"web": component(ports={"a": {"port": 1, "servicePort": 9}, "b": {"port": 9}})}},
            "cells/duplicate",
        ),
        ({"components": {"web": component(scrape={"port": "x"})}}, "cells/unknown-component"),
        (
            {
                "components": {
                    "web": component(
                        ports={"dns": {"port": 53, "protocol": "UDP"}}, scrape={"port": "dns", "metrics": ["up_x"]}
                    )
                }
            },
            "cells/bad-field",
        ),
        (
            {
                "components": {
                    "web": component(
                        ports={"a": {"port": 1}}, scrape={"port": "a", "metrics": ["cellward_hub_clusters"]}
                    )
                }
            },
            "cells/bad-field",
        ),
        ({"components": {"web": component(probes={"liveness": {"tcp": {"port": "x"}}})}}, "cells/unknown-component"),
        (
            {"components": {"web": component(env={"A": "1"}, secrets={"A": {"name": "s", "key": "k"}})}},
            "cells/env-collision",
        ),
        (
            {
                "components": {"web": component(env={"A": "1"})},
                "connections": [{"cell": "data", "endpoint": "api", "env": "A"}],
            },
            "cells/env-collision",
        ),
        (
            {
                "components": {
                    "web": component(
                        config={"files": {"/etc/a": "x"}}, volumes={"v": {"mountPath": "/etc/a", "emptyDir": {}}}
                    )
                }
            },
            "cells/duplicate",
        ),
    ],
)
def test_refused_cells(spec: dict[str, Any], code: str) -> None:
    """V15, V16: each mistake has its code, and the message names file, document and field."""
    own = {"own": {"component": "web", "port": "http"}}
    error = refused(cell("data", endpoints=API | own), cell(**spec))
    assert error.code == code
    assert error.message.startswith("test.yaml, document 2: spec.")


def test_visibility_between_projects() -> None:
    """``project`` is not enough from outside the project, ``organization`` is."""
    caller = cell(project="bank", connections=[{"project": "shop", "cell": "data", "endpoint": "api"}])
    assert refused(cell("data", endpoints=API), caller).code == "cells/not-visible"
    wide = {"api": {**API["api"], "visibility": "organization"}}
    assert ("bank", "web") in resolve_cells(load(cell("data", endpoints=wide), caller), {})


def test_the_same_cell_twice() -> None:
    """Two definitions of one cell are refused, naming both places."""
    error = refused(cell(), cell())
    assert error.code == "cells/duplicate"
    assert "document 1" in error.message
    assert "document 2" in error.message


def needs(name: str, *peers: str) -> dict[str, Any]:
    """Return a cell with an endpoint, connected to others."""
    return cell(name, endpoints=API, connections=[{"cell": peer, "endpoint": "api"} for peer in peers])


def test_circles_are_refused_and_named() -> None:
    """No dependency cycle, over any number of cells."""
    assert refused(needs("a", "b"), needs("b", "a")).message.count("→") == 2
    error = refused(needs("a", "b"), needs("b", "c"), needs("c", "d"), needs("d", "b"))
    assert error.code == "cells/cycle"
    assert "shop/b → shop/c → shop/d → shop/b" in error.message


def test_a_diamond_is_no_circle() -> None:
    """Two ways to one cell are fine."""
    assert len(resolve_cells(load(needs("a", "b", "c"), needs("b", "d"), needs("c", "d"), needs("d")), {})) == 4


def test_a_circle_through_a_released_cell_is_refused() -> None:
    """What was released before is part of the graph."""
    first = resolve_cells(load(needs("a"), needs("b", "a")), {})
    turned = needs("a", "b")
    turned["spec"]["version"] = "2.0.0"
    assert refused(turned, known=first).code == "cells/cycle"


@pytest.mark.parametrize(
    "change",
    [
        {"endpoints": {}},
        {"endpoints": {"api": {**API["api"], "visibility": "public"}}},
        {"components": {"web": component(ports={"http": {"port": 9090}})}},
        {"connections": [{"external": {"cidr": "203.0.113.0/24", "ports": [{"port": 443}]}}]},
    ],
)
def test_offers_and_needs_change_with_the_version(change: dict[str, Any]) -> None:
    """A change of what a cell offers or needs under the same version is refused, under a new one taken."""
    before = resolve_cells(load(cell(endpoints=API)), {})
    changed = {"endpoints": API} | change
    assert refused(cell(**changed), known=before).code == "cells/version-reused"
    assert resolve_cells(load(cell(version="1.0.1", **changed)), before)


def test_the_same_version_may_change_inside() -> None:
    """Another image under the same version is no change of the contract; whether it is allowed is for policy."""
    before = resolve_cells(load(cell(endpoints=API)), {})
    same = cell(endpoints=API, components={"web": component(image="registry.test/web:2")})
    assert resolve_cells(load(same), before)


def test_a_release_survives_signing() -> None:
    """What is resolved, built and parsed again gives the same cell."""
    release = release_of(cell("data", endpoints=API), cell(connections=[{"cell": "data", "endpoint": "api"}]))
    parsed = parse_document(*build_document(release))
    assert parsed == release
    assert isinstance(parsed, Release)
    assert spec_of(parsed) == spec_of(release)


def changed_spec(**changes: JSON) -> Release:
    """Return a release whose signed spec has other fields."""
    release = release_of(cell("data", endpoints=API), cell(connections=[{"cell": "data", "endpoint": "api"}]))
    return replace(release, spec={**release.spec, **changes})


def test_an_unknown_field_in_a_signed_spec_is_too_new() -> None:
    """Strict documents: half a cell is never rendered, neither its objects nor its intent."""
    for release in (changed_spec(gateways=[]), changed_spec(components={"web": {**component(), "gpu": 1}})):
        for use in (
            spec_of,
            conditions,
            lambda item: render(item, FACTS, "dev", PLACEHOLDER),
            lambda item: intent(item, "dev"),
        ):
            with pytest.raises(TooNew) as caught:
                use(release)
            assert caught.value.code == "cells/spec-too-new"


def test_a_signed_spec_that_contradicts_itself() -> None:
    """An unresolved connection, one resolved to another cell, another version or owner: refused."""
    good = release_of(cell("data", endpoints=API), cell(connections=[{"cell": "data", "endpoint": "api"}]))
    connections = good.spec["connections"]
    assert isinstance(connections, list)
    connection = connections[0]
    assert isinstance(connection, dict)
    resolved = connection["resolved"]
    assert isinstance(resolved, dict)
    bad: list[Release] = [
        changed_spec(connections=[{"cell": "data", "endpoint": "api"}]),
        changed_spec(connections=[{**connection, "resolved": {**resolved, "cell": "other"}}]),
        changed_spec(connections=[{**connection, "resolved": {**resolved, "project": "bank"}}]),
        changed_spec(connections=[{**connection, "resolved": {**resolved, "podPort": "22"}}]),
        changed_spec(version="9"),
        replace(good, owner="somebody"),
        replace(good, cell="data"),
        replace(good, spec={}),
    ]
    for release in bad:
        with pytest.raises(InvalidInput) as caught:
            render(release, FACTS, "dev", PLACEHOLDER)
        assert caught.value.code == "cells/bad-spec"


def test_conditions_say_what_isolation_cannot() -> None:
    """A host name, a public endpoint and a range that may include the cluster are told, with their field."""
    spec: dict[str, Any] = {
        "endpoints": {"shop": {**API["api"], "visibility": "public"}},
        "connections": [
            {"external": {"host": "api.example.com", "ports": [{"port": 443}]}, "env": "API"},
            {"external": {"cidr": "10.1.0.0/16", "ports": [{"port": 443}]}},
            {"external": {"cidr": "203.0.113.0/24", "ports": [{"port": 443}]}},
        ],
    }
    assert [(item.code, item.subject) for item in conditions(release_of(cell(**spec)))] == [
        ("cells/public-endpoint-without-gateway", "spec.endpoints.shop"),
        ("cells/host-name-not-expressible", "spec.connections.0"),
        ("cells/external-range-is-wide", "spec.connections.1"),
    ]
    assert conditions(release_of(cell())) == ()


def test_facts_decide_where_a_cell_renders() -> None:
    """The environment must be hosted and the project allowed, by the cluster's own facts."""
    release = release_of(cell())
    with pytest.raises(Refused) as caught:
        render(release, FACTS, "staging", PLACEHOLDER)
    assert caught.value.code == "cells/environment-not-hosted"
    with pytest.raises(Refused) as caught:
        render(release, replace(FACTS, projects=("bank",)), "dev", PLACEHOLDER)
    assert caught.value.code == "cells/project-not-allowed"


def test_a_release_takes_version_and_owner_from_its_cell() -> None:
    """The two places cannot differ when the release is built the usual way."""
    manifest = load(cell(owner="team-a"))[0]
    spec = resolve_cells([manifest.cell], {})["shop", "web"]
    release = build_release(manifest.cell, spec, realm=REALM, issued_at=ISSUED, replace=True)
    assert (release.version, release.owner, release.replace) == ("1.0.0", "team-a", True)
    assert len(releases([manifest])) == 1
