"""The agent's chart through the real Helm: its defaults are those of values.yaml, it renders the plain files."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.isolation.probing.judge import may_hold_back
from agent.link.channels import enrolment_channel
from agent.settings import TUNABLES, AgentSettings, load_settings
from cellward.cells.gate import PROGRAM
from cellward.identity import keys
from cellward.identity.x509 import make_ca
from tests.integration.chart.render import helm, rendered, values_file
from tools.stack.chart import CHART_FILES, chart_objects

CHART = CHART_FILES.parent
AGENT = "cellward-agent"
CI = sorted(CHART.glob("ci/*-values.yaml"))
pytestmark = pytest.mark.real


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The only object of a kind; the agent's mark has no settings."""
    (found,) = [item for item in objects if item["kind"] == kind and item["metadata"]["name"] != "cellward-stamps"]
    return found


def test_chart_without_values_says_what_is_missing() -> None:
    """There is no default for whom to trust, nor for production."""
    told = helm("template", "x", str(CHART), "--namespace", "cellward-system", code=1)
    for name in ("digest", "realm", "root", "enrolmentAddress", "production"):
        assert name in told


def test_defaults_are_what_values_yaml_says(tmp_path: Path) -> None:
    """Nothing but what has to be said is given; the rest is the default, as documented and as the agent reads it."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    objects = rendered(AGENT, "-f", str(CI[0]))
    deployment = of_kind(objects, "Deployment")["spec"]["template"]["spec"]
    (container,) = deployment["containers"]
    assert container["resources"] == values["resources"]
    placed = {"nodeSelector", "tolerations", "affinity", "topologySpreadConstraints", "priorityClassName"}
    assert not {*placed, "imagePullSecrets"} & deployment.keys()
    assert [found["name"] for found in container["env"]] == ["NO_PROXY", "no_proxy"]
    assert [volume["name"] for volume in deployment["volumes"]] == ["state", "temporary", "settings", "trust", "guards"]
    claim = of_kind(objects, "PersistentVolumeClaim")["spec"]
    assert claim["resources"]["requests"]["storage"] == values["state"]["size"]
    assert "storageClassName" not in claim
    file = tmp_path / "agent.yaml"
    file.write_text(of_kind(objects, "ConfigMap")["data"]["agent.yaml"])
    settings = load_settings(file)
    for name in sorted(TUNABLES):
        assert getattr(settings, name) == AgentSettings.model_fields[name].get_default(call_default_factory=True)
    assert settings.facts.projects == tuple(values["facts"]["projects"])
    # Where the kubelet asks is where the agent answers.
    port = {port["name"]: port["containerPort"] for port in container["ports"]}["health"]
    assert settings.health_listen == f"{values['health']['listenHost']}:{port}"
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: found["path"] for name, found in asked.items()} == {
        "startup": "/startupz",
        "readiness": "/readyz",
        "liveness": "/livez",
    }
    assert {found["port"] for found in asked.values()} == {"health"}


def test_v9_a_start_gate_is_one_value(tmp_path: Path) -> None:
    """It reaches the agent, with the Service that the gates find closed; without it there is neither."""
    for wanted, names in (("none", set()), ("proved", {"cellward-agent-answers"})):
        objects = rendered(AGENT, "-f", str(CI[0]), "--set", f"prober.startGate={wanted}")
        file = tmp_path / "agent.yaml"
        file.write_text(of_kind(objects, "ConfigMap")["data"]["agent.yaml"])
        assert load_settings(file).start_gate == wanted
        services = {item["metadata"]["name"]: item["spec"] for item in objects if item["kind"] == "Service"}
        assert services.keys() - {"cellward-agent-health"} == names
        assert all(services[name].get("clusterIP") is None for name in names), "an address that stays"
    assert "startGate" in helm(
        "template", "x", str(CHART), "-f", str(CI[0]), "--set", "prober.startGate=sometimes", code=1
    )


def test_tunables_reach_the_agent(tmp_path: Path) -> None:
    """What may be tuned is tuned, and the trust beside it stays."""
    more = tmp_path / "more.yaml"
    more.write_text(yaml.safe_dump({"settings": {"log_level": "debug", "intervals": {"heartbeat": 3}}}))
    file = tmp_path / "agent.yaml"
    file.write_text(of_kind(rendered(AGENT, "-f", str(CI[0]), "-f", str(more)), "ConfigMap")["data"]["agent.yaml"])
    settings = load_settings(file)
    assert (settings.log_level, settings.intervals.heartbeat) == ("debug", 3)
    assert settings.facts.name == "example-1"


def test_chart_renders_the_plain_files() -> None:
    """Helm installs the same accounts, rights and guards as the demo and the tests, which load the files."""
    made = {(item["kind"], item["metadata"]["name"]): item for item in rendered(AGENT, "-f", str(CI[0]))}
    for wanted in chart_objects():
        if wanted["kind"] != "Namespace":
            assert made[wanted["kind"], wanted["metadata"]["name"]] == wanted


def test_schema_and_template_name_the_tunables_of_the_agent() -> None:
    """Three places name what is not trust; a new setting is trust until all of them say otherwise."""
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == TUNABLES
    text = (CHART / "templates" / "_helpers.tpl").read_text()
    found = re.search(r'define "cellward-agent.tunables" -}}\n(.*)\n', text)
    assert found is not None
    assert set(found[1].split()) == TUNABLES
    assert set(AgentSettings.model_fields) >= TUNABLES


def test_every_value_reaches_the_pod() -> None:
    """With each value said, each is where Kubernetes reads it; the agent's own labels are not overwritten."""
    values = yaml.safe_load((CHART / "ci" / "everything-values.yaml").read_text())
    deployment = of_kind(rendered(AGENT, "-f", str(CHART / "ci" / "everything-values.yaml")), "Deployment")
    template = deployment["spec"]["template"]
    spec, (container,) = template["spec"], template["spec"]["containers"]
    for name in (
        "imagePullSecrets", "priorityClassName", "nodeSelector", "tolerations", "affinity", "topologySpreadConstraints"
    ):  # fmt: skip
        assert spec[name] == values[name]
    assert container["image"] == f"mirror.example.com/cellward/agent@{values['image']['digest']}"
    assert container["imagePullPolicy"] == "Always"
    assert deployment["metadata"]["annotations"] == values["annotations"]
    assert values["podAnnotations"].items() <= template["metadata"]["annotations"].items()
    assert values["podLabels"].items() <= template["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("registry", "repository", "image"),
    [
        ("", "registry.example.com/a/b", "registry.example.com/a/b"),
        ("mirror:5000", "registry.example.com/a/b", "mirror:5000/a/b"),
        ("mirror/all", "localhost/b", "mirror/all/b"),
        ("mirror", "cellward/agent", "mirror/cellward/agent"),
        ("mirror", "agent", "mirror/agent"),
    ],
)
def test_another_registry_takes_the_place_of_the_one_named(
    registry: str, repository: str, image: str, tmp_path: Path
) -> None:
    """The digest stays: a mirror has the same image or none."""
    more = values_file(tmp_path / "more.yaml", {"image": {"registry": registry, "repository": repository}})
    objects = rendered(AGENT, "-f", str(CI[0]), "-f", str(more))
    (container,) = of_kind(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"{image}@sha256:{'0' * 64}"


def test_helm_test_asks_the_agent_and_is_none_of_it(tmp_path: Path) -> None:
    """Its pod reads the agent's settings, asks the Service of the agent's probes, and is not selected by it."""
    objects = rendered(AGENT, "-f", str(CI[0]))
    (pod, _), service = _test_pods(objects), of_kind(objects, "Service")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    command, _, file, address = pod["spec"]["containers"][0]["args"]
    assert command == "probe"
    assert file == of_kind(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"][-1]
    assert address == f"{service['metadata']['name']}.cellward-system.svc:{service['spec']['ports'][0]['port']}"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert not service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["automountServiceAccountToken"] is False


def test_v9_helm_test_also_tries_what_must_be_stopped() -> None:
    """From a pod that may ask its name server alone; the policy for it holds nobody else back."""
    objects = rendered(AGENT, "-f", str(CI[0]))
    (asks, tries), policy = _test_pods(objects), of_kind(objects, "NetworkPolicy")
    selected = policy["spec"]["podSelector"]["matchLabels"].items()
    assert selected <= tries["metadata"]["labels"].items()
    assert not selected <= asks["metadata"]["labels"].items()
    assert not may_hold_back(policy)
    assert {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]} == {53}
    (container,) = tries["spec"]["containers"]
    assert container["command"] == [PROGRAM]
    (plan,) = (json.loads(one["value"]) for one in container["env"])
    reached = asks["spec"]["containers"][0]["args"][-1]
    assert {one["to"] for one in plan["targets"] if one["closed"]} == {reached, "kubernetes.default.svc:443"}
    assert [one["how"] for one in plan["targets"] if not one["closed"]] == ["dns"]


def test_helm_test_tries_nothing_where_nothing_is_measured(tmp_path: Path) -> None:
    """Whoever turns probes off has no engine that would stop packets, or no wish to know."""
    more = values_file(tmp_path / "more.yaml", {"settings": {"isolation_probe": "none"}})
    objects = rendered(AGENT, "-f", str(CI[0]), "-f", str(more))
    assert [one["kind"] for one in objects if one["kind"] in {"Pod", "NetworkPolicy"}] == ["Pod"]


def _test_pods(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in objects if one["kind"] == "Pod"]


async def test_links_go_through_the_proxy_that_the_chart_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variables of the pod are those that gRPC reads: the proxy is asked for the hub, and the API server is not."""
    asked: asyncio.Queue[bytes] = asyncio.Queue()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.put_nowait(await reader.readline())
        writer.close()

    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        more = values_file(tmp_path / "more.yaml", {"proxy": {"https": f"http://127.0.0.1:{port}"}})
        objects = rendered(AGENT, "-f", str(CI[0]), "-f", str(more))
        (container,) = of_kind(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
        for name in ("http_proxy", "https_proxy", "no_proxy", "grpc_proxy", "HTTPS_PROXY", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        for found in container["env"]:
            monkeypatch.setenv(found["name"], found["value"])
        authority = make_ca("hubs", keys.new_tls_key(), datetime.now(UTC)).pem
        channel = enrolment_channel("hub.example.com:7441", authority)
        try:
            channel.get_state(try_to_connect=True)
            line = await asyncio.wait_for(asked.get(), 60)
        finally:
            await channel.close()
    assert line.startswith(b"CONNECT hub.example.com:7441 HTTP/1.")
