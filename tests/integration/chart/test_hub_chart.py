"""The hub's chart: the defaults are the hub's, what it writes is on a volume, what contradicts is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cellward.identity.names import HUB_DNS_NAME
from cellward.telemetry import metrics as names
from hub.settings import HubSettings, load_settings
from tests.integration.chart.render import CHARTS, helm, pick, rendered, values_file
from tests.integration.chart.test_charts import below

HUB = "cellward-hub"
CI = CHARTS / HUB / "ci"
DEFAULT, OUTSIDE, SEVERAL = (CI / f"{name}-values.yaml" for name in ("default", "outside", "several"))
pytestmark = pytest.mark.real


def settings_of(objects: list[dict[str, Any]], directory: Path, name: str = HUB, key: str = "hub.yaml") -> HubSettings:
    """The settings as the hub reads them."""
    file = directory / key
    file.write_text(pick(objects, "ConfigMap", name)["data"][key])
    return load_settings(file)


def pod_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The hub's pod."""
    spec: dict[str, Any] = pick(objects, "Deployment", HUB)["spec"]["template"]["spec"]
    return spec


def test_defaults_are_those_of_the_hub(tmp_path: Path) -> None:
    """With the image alone: one hub, SQLite and keys on a volume, every tunable as the hub has it by itself."""
    objects = rendered(HUB, "-f", str(DEFAULT))
    deployment = pick(objects, "Deployment", HUB)["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    settings = settings_of(objects, tmp_path)
    chosen = {"data_dir", "listen", "advertise", "hostnames"}
    for name, field in HubSettings.model_fields.items():
        if name not in chosen:
            assert getattr(settings, name) == field.get_default(call_default_factory=True), name
    assert settings.listen.metrics == "127.0.0.1:7444"
    values = yaml.safe_load((CHARTS / HUB / "values.yaml").read_text())
    assert pod_of(objects)["containers"][0]["resources"] == values["resources"]
    claim = pick(objects, "PersistentVolumeClaim", "cellward-hub-data")
    assert claim["spec"]["resources"]["requests"]["storage"] == values["data"]["size"]
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    kinds = sorted(item["kind"] for item in objects)
    assert kinds == sorted(
        ["ServiceAccount", "ConfigMap", "Deployment", "PersistentVolumeClaim", "NetworkPolicy", *["Service"] * 3]
    )


@pytest.mark.parametrize("file", [DEFAULT, OUTSIDE, SEVERAL], ids=lambda file: file.stem)
def test_every_path_that_the_hub_writes_is_on_a_writable_volume(file: Path, tmp_path: Path) -> None:
    """Root is read-only; what it only reads is mounted so."""
    objects = rendered(HUB, "-f", str(file))
    settings = settings_of(objects, tmp_path)
    mounts = pod_of(objects)["containers"][0]["volumeMounts"]
    written = [settings.data_dir / "hub.db", Path("/tmp/x")]  # noqa: S108 - of the pod
    written += [path for path in (settings.backup_dir, settings.api_ca_file) if path is not None]
    given = (settings.data_dir / "keys" / "x", settings.passphrase_file, settings.admin_token_file)
    read = [path for path in given if path is not None] if file == SEVERAL else []
    assert len(read) == (3 if file == SEVERAL else 0)
    assert all(not below(str(path), mounts).get("readOnly") for path in written)
    assert all(below(str(path), mounts).get("readOnly") for path in read)


def test_every_listener_has_a_service_and_a_name_in_the_certificate(tmp_path: Path) -> None:
    """What others are told is what they reach, and the hub's certificate is for it."""
    for file in (DEFAULT, OUTSIDE, SEVERAL):
        objects = rendered(HUB, "-f", str(file))
        settings, pod = settings_of(objects, tmp_path), pod_of(objects)
        ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
        for name in ("enrolment", "link", "api"):
            assert getattr(settings.listen, name) == f"0.0.0.0:{ports[name]}"
            service = pick(objects, "Service", f"cellward-hub-{name}")["spec"]
            assert [port["targetPort"] for port in service["ports"]] == [name]
            assert (
                service["selector"].items()
                <= pick(objects, "Deployment", HUB)["spec"]["template"]["metadata"]["labels"].items()
            )
            assert getattr(settings.advertise, name).rpartition(":")[0] in settings.hostnames
            assert f"cellward-hub-{name}.cellward-hub.svc" in settings.hostnames
        assert {"localhost", "127.0.0.1"} <= set(settings.hostnames)


def test_each_listener_is_exposed_by_itself(tmp_path: Path) -> None:
    """A load balancer for enrolment, a Gateway for the link, an Ingress for the API: none gives way to another."""
    objects = rendered(HUB, "-f", str(OUTSIDE))
    types = {
        name: pick(objects, "Service", f"cellward-hub-{name}")["spec"]["type"] for name in ("enrolment", "link", "api")
    }
    assert types == {"enrolment": "LoadBalancer", "link": "ClusterIP", "api": "ClusterIP"}
    (route,) = [item for item in objects if item["kind"] == "TLSRoute"]
    # Agents ask for one name, whatever they dial: a route for any other would never match.
    assert route["spec"]["hostnames"] == [HUB_DNS_NAME]
    assert route["spec"]["rules"][0]["backendRefs"] == [{"name": "cellward-hub-link", "port": 7442}]
    (ingress,) = [item for item in objects if item["kind"] == "Ingress"]
    assert ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] == "cellward-hub-api"
    assert "api.example.com" in settings_of(objects, tmp_path).hostnames
    assert (
        pick(rendered(HUB, "-f", str(SEVERAL)), "Service", "cellward-hub-enrolment")["spec"]["ports"][0]["nodePort"]
        == 30441
    )


def test_a_backup_is_asked_for_with_a_token_and_nothing_of_the_hubs(tmp_path: Path) -> None:
    """Through the API: the pod that asks has neither the volume nor the keys, and asks where the API is."""
    objects = rendered(HUB, "-f", str(OUTSIDE))
    spec = pick(objects, "CronJob", "cellward-hub-backup")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert [sorted(volume.keys() - {"name"}) for volume in spec["volumes"]] == [["configMap"], ["secret"]]
    assert spec["volumes"][1]["secret"]["secretName"] == "cellward-hub-backup"
    asks = settings_of(objects, tmp_path, "cellward-hub-backup", "ask.yaml")
    mounts = spec["containers"][0]["volumeMounts"]
    for path in (asks.api_ca_file, asks.admin_token_file):
        assert below(str(path), mounts)["name"] == "backup"
    hub = settings_of(objects, tmp_path)
    assert asks.api_address.rpartition(":")[0] in hub.hostnames
    assert spec["containers"][0]["args"][0] == "ask-backup"
    assert hub.backup_dir is not None
    assert below(str(hub.backup_dir), pod_of(objects)["containers"][0]["volumeMounts"])["name"] == "backups"


def test_network_policies_open_what_listens_and_nothing_else(tmp_path: Path) -> None:
    """A hub with SQLite calls nobody; with PostgreSQL its server and the names of it."""
    policy = pick(rendered(HUB, "-f", str(DEFAULT)), "NetworkPolicy", HUB)["spec"]
    assert policy["egress"] == []
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["enrolment", "link", "api"]
    several = pick(rendered(HUB, "-f", str(SEVERAL)), "NetworkPolicy", HUB)["spec"]
    assert several["egress"][0] == {
        "ports": [{"protocol": "TCP", "port": 5432}],
        "to": [{"ipBlock": {"cidr": "10.20.0.0/16"}}],
    }
    objects = rendered(HUB, "-f", str(OUTSIDE))
    asking = pick(objects, "CronJob", "cellward-hub-backup")["spec"]["jobTemplate"]["spec"]["template"]["metadata"][
        "labels"
    ]
    for item in (pick(objects, "Deployment", HUB), pick(objects, "NetworkPolicy", HUB)):
        chosen = item["spec"].get("selector", item["spec"].get("podSelector"))["matchLabels"]
        assert not chosen.items() <= asking.items(), "what asks for backups is not a hub"
    off = values_file(tmp_path / "off.yaml", {"networkPolicy": {"enabled": False}})
    assert not [item for item in rendered(HUB, "-f", str(DEFAULT), "-f", str(off)) if item["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"replicas": 2}, "more than one hub needs database.secret"),
        ({"replicas": 2, "database": {"secret": "db"}}, "keys.secret and adminToken.secret"),
        ({"backup": {"enabled": True}}, "backup.secret"),
        ({"backup": {"enabled": True, "secret": "b"}, "database": {"secret": "db"}}, "by its own tools"),
        ({"link": {"gateway": {"enabled": True}}}, "link.gateway.parentRefs"),
        ({"link": {"gateway": {"enabled": True, "parentRefs": [{"name": "g"}]}}}, "sectionName"),
        ({"enrolment": {"gateway": {"enabled": True, "parentRefs": [{"name": "g", "port": 1}]}}}, "enrolment.address"),
        ({"api": {"ingress": {"enabled": True}}}, "api.ingress.host"),
        ({"metrics": {"prometheusRule": {"enabled": True}}}, "metrics.enabled"),
        ({"settings": {"database_url": "sqlite:///x"}}, "database_url"),
        ({"image": {"digest": "latest"}}, "does not match pattern"),
    ],
)
def test_what_contradicts_is_refused_with_the_value_to_change(
    values: dict[str, Any], told: str, tmp_path: Path
) -> None:
    """Before anything is installed."""
    more = values_file(tmp_path / "more.yaml", values)
    assert told in helm("template", HUB, str(CHARTS / HUB), "-f", str(DEFAULT), "-f", str(more), code=1)


def test_without_values_only_the_image_is_missing() -> None:
    """Everything else has a default."""
    told = helm("template", HUB, str(CHARTS / HUB), code=1)
    missing = {line.split("'")[1] for line in told.splitlines() if line.startswith("- at")}
    assert missing == {"/image/digest"}


def test_alerts_and_dashboard_ask_for_metrics_that_there_are() -> None:
    """A rule about a metric that nobody serves is green for ever."""
    page = (CHARTS.parent / "docs" / "reference" / "metrics.md").read_text()
    known = {
        line.split("`")[1]: line.split("|")[2].strip() for line in page.splitlines() if line.startswith("| `cellward_")
    }
    assert names.AGENT_CELLS.name in known
    objects = rendered(HUB, "-f", str(OUTSIDE))
    rules = pick(objects, "PrometheusRule", HUB)["spec"]["groups"][0]["rules"]
    board = json.loads(pick(objects, "ConfigMap", "cellward-hub-dashboard")["data"]["cellward.json"])
    asked = [rule["expr"] for rule in rules]
    asked += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(asked) > 12
    for expression in asked:
        for word in expression.replace("(", " ").replace(")", " ").replace("[", " ").replace("{", " ").split():
            if word.startswith("cellward_"):
                name = word.removesuffix("_total")
                assert known[name] == ("counter" if word.endswith("_total") else "gauge"), expression
