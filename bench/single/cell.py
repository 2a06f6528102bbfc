"""The cell of the single agent's benchmark: five services of four objects each, twenty in all."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cellward.cells.load import load_manifests
from cellward.cells.render import render
from cellward.cells.resolve import resolve_cells
from cellward.cells.stamps import PLACEHOLDER
from cellward.documents.facts import ClusterFacts
from cellward.documents.model import Release

PROJECT = "bench"
#: Objects of one cell, without its namespace and isolation.
OBJECTS = 20
#: Its five services, each with a ServiceAccount, a ConfigMap, a Service and a Deployment.
WORKLOADS = tuple(f"part-{number}" for number in range(5))
_IMAGE = "docker.io/library/redis:7.4-alpine"

_SERVICE = """\
    {name}:
      type: service
      image: {image}
      ports:
        redis: {{port: 6379}}
      config:
        files: {{/etc/bench/number: "{number}"}}
      resources:
        requests: {{cpu: 10m, memory: 16Mi}}
        limits: {{cpu: 100m, memory: 32Mi}}
      probes:
        readiness: {{tcp: {{port: 6379}}, periodSeconds: 5}}
      securityContext: {{runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000}}
"""
_CELL = """\
apiVersion: cellward.dev/v1alpha1
kind: Cell
metadata:
  name: {name}
  project: {project}
spec:
  version: 1.0.0
  owner: team-bench
  components:
{components}"""


def manifest(name: str) -> str:
    """Return the YAML of a cell."""
    services = [_SERVICE.format(name=part, image=_IMAGE, number=number) for number, part in enumerate(WORKLOADS)]
    return _CELL.format(name=name, project=PROJECT, components="".join(services))


def rendered(facts: ClusterFacts, environment: str, name: str = "rendered") -> tuple[dict[str, Any], ...]:
    """Return the objects of a cell as the agent renders them; the same function, without an agent."""
    cells = load_manifests(manifest(name), "bench").cells
    (project, cell), spec = next(iter(resolve_cells(list(cells), {}).items()))
    release = Release(
        realm="sha256:" + "0" * 64, project=project, cell=cell, version="1.0.0", owner="team-bench", spec=spec,
        issued_at=datetime.now(UTC).replace(microsecond=0),
    )  # fmt: skip
    return render(release, facts, environment, PLACEHOLDER).objects
