"""The chart's files agree with the code and with each other; read as text, without Helm."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from agent.isolation.probing import pods
from agent.objects.fence import NAMES, load_guards
from cellward.cells.gate import ANSWERS, ANSWERS_PORT, PROGRAM
from tests.integration.cells.damage import GROUND, RULES, UNGUARDED
from tools.stack.chart import CHART_FILES

_GOLDEN = Path(__file__).parents[2] / "vectors" / "golden" / "boutique-cart.objects.json"


def _policies() -> dict[str, Any]:
    guards = [one for one in load_guards(CHART_FILES) if one["kind"] == "ValidatingAdmissionPolicy"]
    return {one["metadata"]["name"]: one["spec"] for one in guards}


def test_the_agent_knows_every_admission_policy_of_the_chart() -> None:
    """One that it does not know could be missing without a finding."""
    assert set(NAMES) == set(_policies())


def test_helm_installs_and_shows_every_file_with_an_admission_policy() -> None:
    """The list in the helpers is what the chart installs and what the agent compares with."""
    helpers = (CHART_FILES.parent / "templates" / "_helpers.tpl").read_text()
    block = re.search(r'define "cellward-agent.guardFiles" -}}\s*(\[.*?\])', helpers, re.DOTALL)
    assert block is not None
    with_guards = [
        file.name for file in sorted(CHART_FILES.glob("*.yaml")) if "kind: ValidatingAdmission" in file.read_text()
    ]
    assert json.loads(block.group(1)) == with_guards


def test_guard_of_pod_security_wants_what_is_rendered() -> None:
    """Else the agent could not make a cell, or could not take one back."""
    variables = {one["name"]: one["expression"] for one in _policies()["cellward-pod-security"]["variables"]}
    wanted = dict(re.findall(r"'([^']+)': '([^']+)'", variables["wanted"]))
    namespace = next(one for one in json.loads(_GOLDEN.read_text()) if one["kind"] == "Namespace")
    prefix = "pod-security.kubernetes.io/"
    rendered = {key: value for key, value in namespace["metadata"]["labels"].items() if key.startswith(prefix)}
    assert len(rendered) == 6
    assert wanted == rendered


def test_v12_every_rule_of_the_guards_says_which_repairs_it_judges() -> None:
    """A rule that comes later needs a damage whose repair it judges, or the word that there is none.

    ``test_guards_away`` does each damage on a real API server and sees every write of its repair admitted.
    """
    rules = [(name, str(rule["message"])) for name, spec in _policies().items() for rule in spec["validations"]]
    for name, message in rules:
        assert sum(name == guard and message.startswith(start) for guard, start, _ in RULES) == 1, message
    assert len(rules) == len(RULES)
    damages = {damage.name for damage in (*GROUND, *UNGUARDED)}
    assert {name for *_, names in RULES for name in names} <= damages


def test_v9_start_gates_try_the_service_that_the_chart_makes() -> None:
    """A name that nobody has would be closed to everybody, and prove nothing."""
    page = (CHART_FILES.parent / "templates" / "health.yaml").read_text().split("---")[1]
    assert f"name: {ANSWERS}\n" in page
    assert f"{{name: health, port: {ANSWERS_PORT}, targetPort: health}}" in page
    assert f"{{name: probe, port: {ANSWERS_PORT}, targetPort: probe, protocol: UDP}}" in page
    ports = (CHART_FILES.parent / "templates" / "deployment.yaml").read_text()
    assert f"{{name: probe, containerPort: {ANSWERS_PORT}, protocol: UDP}}" in ports
    assert PROGRAM == pods.PROGRAM
