"""kubeconform finds nothing in either chart against the schemas of the API server that runs, and finds a typo."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.chart.render import CI, rendered
from tests.integration.chart.schemas import write_schemas
from tools.parts.locate import path_of
from tools.stack.api import ApiClient

pytestmark = pytest.mark.real
#: Kinds of others, of which an API server without them has no schema.
FOREIGN = ("TLSRoute", "ServiceMonitor", "PrometheusRule")


@pytest.fixture(scope="module")
def schemas(admin: ApiClient, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of schemas of this API server."""
    directory = tmp_path_factory.mktemp("schemas")
    openapi = admin.must(admin.request("GET", "/openapi/v2"), "the API server's own schema")
    stems = write_schemas(openapi, directory)
    assert {"deployment-apps-v1", "pod-v1", "validatingadmissionpolicy-admissionregistration-v1"} <= stems
    return directory


def conform(schemas: Path, objects: list[dict[str, Any]]) -> tuple[int, dict[str, str]]:
    """How many objects are valid, and what is wrong with each other one, by kind and name."""
    where = f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    words = [str(path_of("kubeconform")), "-strict", "-schema-location", where, "-skip", ",".join(FOREIGN)]
    done = subprocess.run(
        [*words, "-output", "json", "-verbose", "-n", "1"],
        input=yaml.safe_dump_all(objects),
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr, done.stderr
    found = json.loads(done.stdout)["resources"]
    wrong = {f"{one['kind']}/{one['name']}": one["msg"] for one in found if one["status"] not in _FINE}
    return sum(one["status"] == "statusValid" for one in found), wrong


_FINE = {"statusValid", "statusSkipped"}


@pytest.mark.parametrize(("chart", "file"), CI, ids=[f"{chart}-{file.stem}" for chart, file in CI])
def test_every_object_is_what_the_api_servers_schema_says(schemas: Path, chart: str, file: Path) -> None:
    """All of them are looked at but those of foreign kinds, and all are valid."""
    objects = rendered(chart, "-f", str(file))
    known = [item for item in objects if item["kind"] not in FOREIGN]
    assert len(known) > 5
    assert conform(schemas, objects) == (len(known), {})


def _renamed(deployment: dict[str, Any]) -> None:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["imagePullPolcy"] = container.pop("imagePullPolicy")


def _of_another_type(deployment: dict[str, Any]) -> None:
    deployment["spec"]["replicas"] = "one"


def _left_out(deployment: dict[str, Any]) -> None:
    del deployment["spec"]["selector"]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [(_renamed, "imagePullPolcy"), (_of_another_type, "replicas"), (_left_out, "selector")],
    ids=["a name", "a type", "a field"],
)
def test_what_is_wrong_is_found_and_named(schemas: Path, spoil: Any, told: str) -> None:
    """A typo deep inside, a wrong type and a missing field: of one object, and the others stay valid."""
    chart, file = CI[0]
    objects = rendered(chart, "-f", str(file))
    (deployment,) = [item for item in objects if item["kind"] == "Deployment"]
    spoil(deployment)
    valid, wrong = conform(schemas, objects)
    assert valid == len(objects) - 1
    assert list(wrong) == ["Deployment/cellward-agent"]
    assert told in wrong["Deployment/cellward-agent"]
