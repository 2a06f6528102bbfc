"""The agent as it is installed: in a pod of a real node, by Helm, with nothing but the chart's defaults.

It needs a laboratory (``tools.stack.node.lab``); outside of one it runs itself in one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from bench.numbers import Row, percentile
from bench.single.cell import OBJECTS, PROJECT, WORKLOADS, manifest
from tools.demo.agents import PodAgent
from tools.demo.narrate import wait_for
from tools.demo.one import open_one
from tools.demo.stage import CLUSTERS, Stage
from tools.stack.node import lab
from tools.stack.node.prepare import prepare
from tools.stack.shell import AdminShell
from tools.stack.steps import drive

_CLUSTER, _ENVIRONMENT = "eu-1", "development"
_PROGRAM, _PORT = "docker.io/library/redis:7.4-alpine", 6379
_ROUNDS = 5


def run_in_laboratory() -> dict[str, Any]:
    """Return the JSON of this part, run in a laboratory; raises RuntimeError where there can be none."""
    if reason := lab.impossible():
        raise RuntimeError(reason)
    prepare("agent")
    command = [sys.executable, "-m", "tools.stack.node.lab", sys.executable, "-m", "bench", "--only", "pod"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run() -> list[Row]:
    """Run everything; one cluster, one node."""
    with open_one(_CLUSTER, _PROGRAM, [_PORT]) as stage:
        shell = AdminShell(stage.directory / "administrator", stage.planes[_CLUSTER].kubeconfig_admin)
        line = stage.cli.run("clusters", "invite", _CLUSTER, *CLUSTERS[_CLUSTER]).stdout.strip()
        installed = _timed(lambda: _must(shell, line), lambda: _ready(stage))
        starts = [_start(stage) for _ in range(_ROUNDS)]
        idle = _memory(stage)
        cells = [_cell(stage, f"cell-{number}") for number in range(_ROUNDS)]
        few, many = _probe(stage, "cell-0"), _probe(stage, _wide(stage))
        return [
            Row("pod_install", "printed line to policy in force", installed, "s", note="Helm, image already there"),
            Row("pod_start", "pod made to policy in force, p50", percentile(starts, 0.5), "s"),
            Row("pod_start_max", "the same, slowest of five", max(starts), "s"),
            Row("pod_cell", f"a cell of {OBJECTS} objects, signed to ready, p50", percentile(cells, 0.5), "s",
                note="real pods; isolation measured first"),
            Row("pod_probe", "one probe of a cell", few[0], "s", note=f"{few[1]} edges"),
            Row("pod_probe_wide", "the same, four kinds of callers", many[0], "s", note=f"{many[1]} edges"),
            Row("pod_memory", "container of the agent with OPA, idle", idle, "MB", note="working set"),
            Row("pod_memory_after", "the same after the cells", _memory(stage), "MB", note="working set"),
        ]  # fmt: skip


def _timed(act: Callable[[], object], there: Callable[[], object]) -> float:
    begun = time.monotonic()
    act()
    wait_for("what is measured", there, 300)
    return time.monotonic() - begun


def _must(shell: AdminShell, line: str) -> None:
    done = shell.run(line)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


def _pod(stage: Stage) -> dict[str, Any]:
    found = stage.kubectl[_CLUSTER].list("pods", "app.kubernetes.io/name=cellward-agent")
    alive = [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]
    return alive[0] if len(alive) == 1 else {}


def _ready(stage: Stage) -> bool:
    conditions = {one["type"]: one["status"] for one in _pod(stage).get("status", {}).get("conditions", [])}
    return conditions.get("Ready") == "True"


def _start(stage: Stage) -> float:
    agent = stage.agents[_CLUSTER]
    assert isinstance(agent, PodAgent)
    drive(agent.stop())
    return _timed(agent.start, lambda: _ready(stage))


def _memory(stage: Stage) -> float:
    node = stage.planes[_CLUSTER].real[0]
    return node.memory_of_pod(_pod(stage)["metadata"]["uid"]) / 1e6


def _wide(stage: Stage) -> str:
    """Run a cell, three components of which may each talk to somebody else outside; return its name."""
    connections = "".join(
        f"    - {{external: {{cidr: 203.0.113.{number}/32, ports: [{{port: 443}}]}}, components: [{part}]}}\n"
        for number, part in enumerate(WORKLOADS[:3])
    )
    _cell(stage, "wide", f"  connections:\n{connections}")
    return "wide"


def _cell(stage: Stage, name: str, more: str = "") -> float:
    file = stage.directory / f"{name}.yaml"
    file.write_text(manifest(name) + more)

    def ready() -> bool:
        states = stage.api.get(f"/cells/{PROJECT}/{name}")["states"]
        return any(one["phase"] == "ready" and one["objectsReady"] == one["objectsTotal"] > 0 for one in states)

    return _timed(lambda: stage.cli.run("apply", "-f", str(file), "--environment", _ENVIRONMENT), ready)


def _probe(stage: Stage, cell: str) -> tuple[float, int]:
    """One probe that was asked for: what was measured half a minute ago is measured again."""
    name = f"{PROJECT}/{cell}"

    def asked() -> bool:
        command = ("clusters", "command", _CLUSTER, "probe", f"{name}/{_ENVIRONMENT}")
        return stage.cli.run(*command, accept=(0, 1, 4)).returncode == 0

    def proof() -> dict[str, Any]:
        (state,) = stage.api.get(f"/cells/{name}")["states"]
        return dict(state["isolationProof"] or {})

    before = proof().get("measuredAt")
    wait_for("a probe to be taken", asked, 90)
    begun = time.monotonic()
    wait_for("it to be reported", lambda: proof().get("measuredAt") != before, 90)
    return time.monotonic() - begun, int(proof().get("tried") or 0)
