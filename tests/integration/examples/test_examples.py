"""The examples on real parts: the starter bundle in OPA says what each file claims, a real API server takes them."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cellward.cells.load import load_manifests
from cellward.cells.render import RenderedCell, render
from cellward.cells.resolve import resolve_cells
from cellward.cells.spec import build_release
from cellward.cells.stamps import PLACEHOLDER
from cellward.documents.facts import ClusterFacts
from cellward.policy.model import DecisionInput
from tests.vectors.generate import BOUTIQUE, ISSUED, REALM
from tools.stack.chart import AGENT_ACCOUNT, AGENT_NAMESPACE
from tools.stack.control_plane import BlockingControlPlane

pytestmark = pytest.mark.real

STARTER = BOUTIQUE.parents[1] / "policies" / "starter"
REFUSED = sorted((BOUTIQUE.parent / "refused").glob("*.yaml"))
FACTS = ClusterFacts(name="us-1", uid="u", environments=("production",), production=True)


def rendered(files: list[Path]) -> list[tuple[str, str, RenderedCell]]:
    """Return project, cell and objects of every cell in the files."""
    cells = [cell for file in files for cell in load_manifests(file.read_bytes(), file.name).cells]
    specs = resolve_cells(cells, {})
    releases = [build_release(item.cell, specs[item.key], realm=REALM, issued_at=ISSUED) for item in cells]
    return [(item.project, item.cell, render(item, FACTS, "production", PLACEHOLDER)) for item in releases]


def denials(opa: Path, project: str, cell: str, rendering: RenderedCell) -> list[dict[str, Any]]:
    """Ask the starter bundle about every object, as the agent's gate does."""
    question = DecisionInput(
        time=datetime(2026, 1, 2, tzinfo=UTC), realm=REALM, facts=FACTS, environment="production", project=project,
        cell=cell, release={}, deployment={}, signers=(), isolation="enforced",
        objects=(rendering.namespace_object, *rendering.isolation, *rendering.objects),
    ).to_json()  # fmt: skip
    query = "[d | some o in input.objects; some d in data.starter.deny with input.object as o]"
    answer = subprocess.run(
        [str(opa), "eval", "--format=json", "--stdin-input", "--data", str(STARTER), f"x := {query}"],
        input=json.dumps(question), capture_output=True, text=True, check=True, timeout=50,
    )  # fmt: skip
    found: list[dict[str, Any]] = json.loads(answer.stdout)["result"][0]["bindings"]["x"]
    return found


def test_the_boutique_passes_the_starter_rules(opa_binary: Path) -> None:
    """Every object of every cell is allowed in production with enforced isolation."""
    files = sorted(BOUTIQUE.glob("*.yaml"))
    answers = {cell: denials(opa_binary, project, cell, out) for project, cell, out in rendered(files)}
    assert answers == {"cart": [], "catalogue": [], "checkout": [], "storefront": []}


@pytest.mark.parametrize("file", REFUSED, ids=lambda file: file.stem)
def test_each_refused_cell_breaks_exactly_its_rule(file: Path, opa_binary: Path) -> None:
    """V15: the rule that the first line names, and no other."""
    rule = file.read_text().splitlines()[0].removeprefix("# refused-by: ")
    project, cell, out = rendered([file])[0]
    assert {item["rule"] for item in denials(opa_binary, project, cell, out)} == {rule}


EVERYTHING = """
apiVersion: cellward.dev/v1alpha1
kind: Cell
metadata: {name: everything, project: boutique}
spec:
  version: 1.0.0
  owner: team
  components:
    web:
      image: docker.io/library/nginx:1.29.3-alpine
      command: [nginx]
      args: [-g, daemon off;]
      ports: {http: {port: 8080, servicePort: 80}, dns: {port: 5353, protocol: UDP}}
      env: {A: "1"}
      secrets: {TOKEN: {name: api, key: token}}
      config: {files: {/etc/web/a.conf: "x", /etc/web/b.conf: "y"}}
      resources: {requests: {cpu: 100m, memory: 32Mi, ephemeral-storage: 1Gi}, limits: {memory: 64Mi}}
      probes:
        startup: {exec: ["true"]}
        readiness: {http: {path: /, port: http, headers: {A: b}}, timeoutSeconds: 2, failureThreshold: 3}
        liveness: {tcp: {port: 8080}, initialDelaySeconds: 1, periodSeconds: 5}
      volumes:
        scratch: {mountPath: /scratch, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
        data: {mountPath: /data, persistent: {size: 1Gi, storageClass: fast}, readOnly: true}
      scrape: {port: http, path: /metrics}
      terminationGracePeriodSeconds: 3
      securityContext: {runAsUser: 1, runAsGroup: 1, fsGroup: 1, capabilities: {add: [NET_BIND_SERVICE]}}
    worker: {type: worker, image: docker.io/library/nginx:1.29.3-alpine, replicas: 0}
    once: {type: job, image: docker.io/library/nginx:1.29.3-alpine}
    nightly: {type: cronjob, schedule: "0 3 * * *", image: docker.io/library/nginx:1.29.3-alpine}
    store:
      type: stateful
      image: docker.io/library/redis:7.4-alpine
      ports: {redis: {port: 6379}}
      volumes: {data: {mountPath: /data, persistent: {size: 1Gi}}}
    raw:
      type: manifests
      manifests:
        - {apiVersion: v1, kind: ConfigMap, metadata: {name: raw}, data: {a: b}}
        - apiVersion: policy/v1
          kind: PodDisruptionBudget
          metadata: {name: web}
          spec: {minAvailable: 1, selector: {matchLabels: {cellward.dev/component: web}}}
  endpoints:
    a: {component: web, port: http, visibility: project}
    b: {component: web, port: dns, visibility: organization}
    c: {component: store, port: redis, visibility: public}
  connections:
    - {external: {cidr: 0.0.0.0/0, ports: [{port: 443}]}, components: [web, worker]}
    - {external: {cidr: "2001:db8::/32", ports: [{port: 443}]}}
    - {external: {host: mail.example.com, ports: [{port: 25}]}, env: MAIL, components: [web]}
"""


def test_a_real_api_server_takes_every_rendered_object(control_plane: BlockingControlPlane, tmp_path: Path) -> None:
    """Nothing rendered is unknown or invalid to Kubernetes; NetworkPolicies are stored as they are, nothing added."""
    admin = control_plane.admin
    agent = admin.with_token(admin.service_account_token(AGENT_NAMESPACE, AGENT_ACCOUNT, 3600))
    everything = tmp_path / "everything.yaml"
    everything.write_text(EVERYTHING)
    for _, _, out in rendered([*sorted(BOUTIQUE.glob("*.yaml")), everything]):
        for item in (out.namespace_object, *out.isolation):
            stored = agent.must(agent.apply(item, manager="test-examples"), f"{item['kind']} {out.namespace}")
            if item in out.isolation:
                # An empty list is stored by being left out.
                assert {"ingress": [], "egress": []} | stored["spec"] == item["spec"]
        for item in out.objects:
            root = "/api/v1" if item["apiVersion"] == "v1" else f"/apis/{item['apiVersion']}"
            path = f"{root}/namespaces/{out.namespace}/{item['kind'].lower()}s?dryRun=All&fieldValidation=Strict"
            answer = admin.request("POST", path, item)
            assert answer.ok, (item["kind"], item["metadata"]["name"], answer.message)
        agent.must(agent.delete(out.namespace_object), out.namespace)
