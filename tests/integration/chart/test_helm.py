"""The chart through the real Helm: it is clean, its defaults are those of values.yaml, it renders the plain files."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.settings import TUNABLES, AgentSettings, load_settings
from tools.parts.locate import path_of
from tools.stack.chart import CHART_FILES, chart_objects

CHART = CHART_FILES.parent
CI = sorted(CHART.glob("ci/*-values.yaml"))
pytestmark = pytest.mark.real


def helm(*words: str, code: int = 0) -> str:
    """Run helm and return its output."""
    done = subprocess.run([str(path_of("helm")), *words], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def rendered(*words: str) -> list[dict[str, Any]]:
    """Objects that the chart makes of some values."""
    text = helm("template", "cellward-agent", str(CHART), "--namespace", "cellward-system", *words)
    return [item for item in yaml.safe_load_all(text) if item]


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The only object of a kind; the agent's mark has no settings."""
    (found,) = [item for item in objects if item["kind"] == kind and item["metadata"]["name"] != "cellward-stamps"]
    return found


@pytest.mark.parametrize("values", CI, ids=lambda path: path.name)
def test_chart_is_clean(values: Path) -> None:
    """No warning, with the values that the chart brings for this."""
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), "-f", str(values))


def test_chart_without_values_says_what_is_missing() -> None:
    """There is no default for whom to trust, nor for production."""
    told = helm("template", "x", str(CHART), "--namespace", "cellward-system", code=1)
    for name in ("digest", "realm", "root", "enrolmentAddress", "production"):
        assert name in told


def test_defaults_are_what_values_yaml_says(tmp_path: Path) -> None:
    """Nothing but what has to be said is given; the rest is the default, as documented and as the agent reads it."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    objects = rendered("-f", str(CI[0]))
    deployment = of_kind(objects, "Deployment")["spec"]["template"]["spec"]
    (container,) = deployment["containers"]
    assert container["resources"] == values["resources"]
    assert "nodeSelector" not in deployment
    assert "tolerations" not in deployment
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


def test_tunables_reach_the_agent(tmp_path: Path) -> None:
    """What may be tuned is tuned, and the trust beside it stays."""
    more = tmp_path / "more.yaml"
    more.write_text(yaml.safe_dump({"settings": {"log_level": "debug", "intervals": {"heartbeat": 3}}}))
    file = tmp_path / "agent.yaml"
    file.write_text(of_kind(rendered("-f", str(CI[0]), "-f", str(more)), "ConfigMap")["data"]["agent.yaml"])
    settings = load_settings(file)
    assert (settings.log_level, settings.intervals.heartbeat) == ("debug", 3)
    assert settings.facts.name == "example-1"


def test_chart_renders_the_plain_files() -> None:
    """Helm installs the same accounts, rights and guards as the demo and the tests, which load the files."""
    made = {(item["kind"], item["metadata"]["name"]): item for item in rendered("-f", str(CI[0]))}
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
