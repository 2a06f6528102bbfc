"""Reading YAML: bounded, one meaning only, and every error with its place (V15, V16)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellward.cells.load import load_cells, load_manifests
from cellward.documents.strict_yaml import MAX_BYTES
from cellward.errors import CellwardError, InvalidInput
from tests.unit.cellward.cells.sample import cell, component, load

CELL = """\
apiVersion: cellward.dev/v1alpha1
kind: Cell
metadata: {name: web, project: shop}
spec:
  version: 1.0.0
  owner: team
  components:
    web:
      type: service
      image: registry.test/web:1
      ports: {http: {port: 8080, servicePort: 80}}
"""
PLACEMENT = """\
apiVersion: cellward.dev/v1alpha1
kind: Deployment
metadata: {name: everywhere, project: shop}
spec:
  cells: [web]
  environments: [dev, prod]
  clusterSelector: {production: false}
  rollout: {deadlineSeconds: 60}
  confirmPrune: 3
"""


def refused(text: str | bytes) -> CellwardError:
    """Return why a file is refused."""
    with pytest.raises(InvalidInput) as caught:
        load_manifests(text, "shop.yaml")
    return caught.value


def test_a_file_of_cells_and_deployments() -> None:
    """Several documents, empty ones between them, in order and with their index."""
    found = load_manifests(f"# nothing yet\nnull\n---\n{CELL}---\n---\n{PLACEMENT}", "shop.yaml")
    assert [(item.key, item.index, item.source) for item in found.cells] == [(("shop", "web"), 1, "shop.yaml")]
    port = found.cells[0].cell.spec.components["web"].ports["http"]
    assert (port.port, port.exposed, port.protocol) == (8080, 80, "TCP")
    placement = found.placements[0]
    assert (placement.project, placement.cells, placement.environments) == ("shop", ("web",), ("dev", "prod"))
    assert placement.selector.production is False
    assert (placement.rollout, placement.confirm_prune) == ({"deadlineSeconds": 60}, 3)
    assert [item.key for item in load_cells(f"{CELL}---\n{PLACEMENT}", "shop.yaml")] == [("shop", "web")]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"a" * (MAX_BYTES + 1), "cells/too-large"),
        ("---\n" * 65 + CELL, "cells/too-large"),
        (b"\xff\xfe", "cells/not-yaml"),
        (b"a: \x00", "cells/not-yaml"),
        ("a: [1, 2", "cells/not-yaml"),
        ("a: b: c", "cells/not-yaml"),
        ("? [a]\n: b", "cells/not-yaml"),
        ("1: a", "cells/not-yaml"),
        ("a: !!python/object/apply:os.system [ls]", "cells/not-yaml"),
        ("a: !!float 1.5", "cells/not-yaml"),
        ("a: !!set {x}", "cells/not-yaml"),
        ("a: !!bool junk", "cells/not-yaml"),
        ("a: ! x", "cells/not-yaml"),
        ("a: " + "[" * 60 + "]" * 60, "cells/not-yaml"),
        ("[" * 100_000, "cells/not-yaml"),
        ("a: &x 1", "cells/yaml-alias"),
        ("a: &x [1]\nb: *x", "cells/yaml-alias"),
        ("a: 1\na: 2", "cells/duplicate-key"),
        ("a: {b: 1, b: 1}", "cells/duplicate-key"),
        ("just text", "cells/unknown-kind"),
        ("[1]", "cells/unknown-kind"),
        (CELL.replace("v1alpha1", "v1"), "cells/unknown-kind"),
        (CELL.replace("kind: Cell", "kind: Project"), "cells/unknown-kind"),
        (CELL.replace("kind: Cell", "kind: [Cell]"), "cells/unknown-kind"),
    ],
)
def test_refused_files(text: str | bytes, code: str) -> None:
    """V16: each way of being malformed has its own code and names the file."""
    error = refused(text)
    assert error.code == code
    assert error.message.startswith("shop.yaml")


def test_a_billion_laughs_is_refused_before_it_grows() -> None:
    """Anchors are refused at the first one, so nothing is expanded."""
    bomb = "a: &a [x]\n" + "\n".join(f"b{n}: &b{n} [{', '.join(['*a'] * 9)}]" for n in range(9))
    assert refused(bomb).code == "cells/yaml-alias"


def test_errors_name_document_and_field() -> None:
    """V15: file, document, field path and reason."""
    error = refused(f"{CELL}---\n{CELL.replace('port: 8080', 'port: 80800')}")
    assert error.message.startswith("shop.yaml, document 2: spec.components.web.ports.http.port: ")
    assert error.details["field"] == "spec.components.web.ports.http.port"
    assert "line 9" in refused(CELL + "      image: twice\n").message or refused("a: 1\na: 2").message.count("line 2")


def test_values_are_not_repeated_in_errors() -> None:
    """What was written could be a secret, so the message says what is wrong and not what it was."""
    error = refused(CELL.replace("image: registry.test/web:1", "image: registry.test/web:1\n      env: {A: 42424242}"))
    assert error.code == "cells/bad-field"
    assert "42424242" not in error.message


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "2026-01-01", "1.5", "0x10", "010", "1_000", "True", "~x"])
def test_text_stays_text(text: str) -> None:
    """Nothing that looks like something else becomes it: not yes, not a date, not an octal number."""
    found = load_cells(CELL + f"      env: {{A: {text}}}\n", "shop.yaml")
    assert found[0].cell.spec.components["web"].env == {"A": text}


def bad(field: str, **spec: Any) -> None:
    """Assert that a cell is refused at a field."""
    with pytest.raises(InvalidInput) as caught:
        load(cell(**spec))
    assert caught.value.code == "cells/bad-field"
    assert caught.value.details["field"] == f"spec.{field}"


def in_component(field: str, **changes: Any) -> None:
    """Assert that a component is refused at a field."""
    bad(f"components.web{'.' if field else ''}{field}", components={"web": component(**changes)})


def test_unknown_fields_are_named() -> None:
    """A misspelled field is refused at every level."""
    bad("ownr", ownr="x")
    in_component("imagePull", imagePull="x")
    in_component("ports.http.nodePort", ports={"http": {"port": 1, "nodePort": 30000}})
    in_component("resources.limits.gpu", resources={"limits": {"gpu": "1"}})
    in_component("securityContext.procMount", securityContext={"procMount": "x"})
    bad("connections.0.namespace", connections=[{"cell": "a", "endpoint": "b", "namespace": "c"}])


@pytest.mark.parametrize("name", ["Web", "a--b", "-a", "a-", "a.b", "a_b", "", "a" * 25, "ä", "a\n", 5])
def test_bad_cell_names(name: object) -> None:
    """RFC 1123, at most 24 characters, no ``--``."""
    with pytest.raises(InvalidInput):
        load(cell() | {"metadata": {"name": name, "project": "shop"}})


@pytest.mark.parametrize("name", ["Shop", "a--b", "a" * 21, ""])
def test_bad_project_names(name: str) -> None:
    """RFC 1123, at most 20 characters, no ``--``."""
    with pytest.raises(InvalidInput):
        load(cell(project=name))


def test_longest_names_are_taken() -> None:
    """The bounds are inclusive, and the namespace still fits into 63 characters."""
    found = load(cell("c" * 24, "p" * 20))[0]
    assert found.key == ("p" * 20, "c" * 24)
    assert len("--".join([*found.key, "e" * 12])) <= 63


def test_shapes_of_components() -> None:
    """Fields that exclude or need each other."""
    in_component("", image=None)
    in_component("", type="job", replicas=1)
    in_component("", type="cronjob")
    in_component("", schedule="* * * * *")
    in_component("", ports={})
    in_component("", type="worker", serviceType="NodePort")
    in_component("", manifests=[{"kind": "ConfigMap"}])
    bad("components.web", components={"web": {"type": "manifests"}})
    bad("components.web", components={"web": component(type="manifests", manifests=[{"a": 1}])})
    in_component("probes.readiness", probes={"readiness": {"http": {"port": 1}, "exec": ["a"]}})
    in_component("probes.readiness", probes={"readiness": {}})
    in_component("volumes.data", volumes={"data": {"mountPath": "/a"}})
    in_component("volumes.data.mountPath", volumes={"data": {"mountPath": "a", "emptyDir": {}}})
    in_component("env.A", env={"A": 1})
    in_component("env.1A.[key]", env={"1A": "x"})
    in_component("resources.limits.cpu", resources={"limits": {"cpu": 1}})
    in_component("serviceType", serviceType="ExternalName")


def test_shapes_of_connections() -> None:
    """Either a cell's endpoint or something external, with one target and one address for a variable."""
    port = [{"port": 1}]
    bad("connections.0", connections=[{}])
    bad("connections.0", connections=[{"cell": "a"}])
    bad(
        "connections.0",
        connections=[{"cell": "a", "endpoint": "b", "external": {"host": "a.example", "ports": port}}],
    )
    bad("connections.0.external", connections=[{"external": {"ports": port}}])
    bad(
        "connections.0.external",
        connections=[{"external": {"host": "a.example", "cidr": "10.0.0.0/8", "ports": port}}],
    )
    bad("connections.0.external.ports", connections=[{"external": {"cidr": "10.0.0.0/8", "ports": []}}])
    bad("connections.0.external.cidr", connections=[{"external": {"cidr": "10.0.0.1/8", "ports": port}}])
    bad("connections.0.external.cidr", connections=[{"external": {"cidr": "all", "ports": port}}])
    bad("connections.0", connections=[{"external": {"cidr": "10.0.0.0/8", "ports": port}, "env": "A"}])


def test_resolved_is_not_written_by_hand() -> None:
    """No author, and nobody who edits the file, chooses the port that opens."""
    resolved = {
        "project": "shop", "cell": "a", "component": "c", "service": "c", "servicePort": 1, "podPort": 22,
        "protocol": "TCP",
    }  # fmt: skip
    bad("connections.0.resolved", connections=[{"cell": "a", "endpoint": "b", "resolved": resolved}])


def test_what_policy_refuses_can_be_written() -> None:
    """Rules can only refuse, with their name and reason, what the model can say."""
    dangerous = component(
        hostNetwork=True, hostPID=True, hostIPC=True, serviceType="NodePort",
        securityContext={"privileged": True, "runAsUser": 0, "runAsNonRoot": False, "capabilities": {"add": ["ALL"]}},
        volumes={"root": {"mountPath": "/host", "hostPath": {"path": "/"}}},
    )  # fmt: skip
    spec = load(cell(components={"web": dangerous}, owner=""))[0].cell.spec
    assert spec.owner == ""
    assert spec.components["web"].host_network
    assert spec.components["web"].host_pid


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    )
)
def test_anything_in_spec_is_taken_or_refused(value: object) -> None:
    """V16: whatever stands in spec, loading answers with a cell or with our error."""
    try:
        found = load_cells(json.dumps(cell() | {"spec": value}), "any.yaml")
    except InvalidInput:
        return
    assert len(found) == 1


@given(st.binary(max_size=80))
def test_no_bytes_do_more_than_raise(data: bytes) -> None:
    """V16: any bytes are an empty file or our error."""
    try:
        found = load_manifests(data, "any.yaml")
    except InvalidInput:
        return
    assert not found.cells
