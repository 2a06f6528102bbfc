"""What the real Helm makes of a chart and some values."""

from __future__ import annotations

import copy
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from tools.parts.locate import path_of

CHARTS = Path(__file__).resolve().parents[3] / "charts"
#: Charts by name, each with the namespace it is installed into.
NAMESPACES = {"cellward-agent": "cellward-system", "cellward-hub": "cellward-hub"}
#: Each chart with each of its ``ci/`` files.
CI = [(chart, file) for chart in NAMESPACES for file in sorted((CHARTS / chart).glob("ci/*-values.yaml"))]


def helm(*words: str, code: int = 0) -> str:
    """Run helm and return its output."""
    done = subprocess.run([str(path_of("helm")), *words], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def rendered(chart: str, *words: str) -> list[dict[str, Any]]:
    """Objects that a chart makes of some values."""
    return copy.deepcopy(_rendered(chart, words))


@lru_cache(maxsize=64)
def _rendered(chart: str, words: tuple[str, ...]) -> list[dict[str, Any]]:
    text = helm("template", chart, str(CHARTS / chart), "--namespace", NAMESPACES[chart], *words)
    return [item for item in yaml.safe_load_all(text) if item]


def values_file(path: Path, values: dict[str, Any]) -> Path:
    """Write values for ``-f``."""
    path.write_text(yaml.safe_dump(values))
    return path


def pick(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The only object of a kind and name."""
    (found,) = [item for item in objects if item["kind"] == kind and item["metadata"]["name"] == name]
    return found


def pod_specs(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pods that the objects make, by kind and name: their metadata and spec."""
    found = {}
    for item in objects:
        name = f"{item['kind']}/{item['metadata']['name']}"
        if item["kind"] == "Pod":
            found[name] = item
        elif item["kind"] == "Deployment":
            found[name] = item["spec"]["template"]
        elif item["kind"] == "CronJob":
            found[name] = item["spec"]["jobTemplate"]["spec"]["template"]
    return found
