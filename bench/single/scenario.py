"""One agent process with exactly the chart's rights: control plane, hub, join, policy, cells, drift, memory.

Nodes are simulated (kwok), so ``ready`` says how long the agent and the controllers take, never how long a container.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.admin import Admin
from bench.author import Author
from bench.installation import Installation
from bench.numbers import Row, percentile
from bench.procfs import children, comm, usage
from bench.single import decision, drift
from bench.single.cell import OBJECTS, PROJECT, WORKLOADS, manifest
from cellward.cells.render import namespace_of
from tools.demo.processes import part
from tools.parts.locate import path_of
from tools.stack.control_plane import BlockingControlPlane
from tools.stack.process import Child
from tools.stack.steps import drive

_ROOT = Path(__file__).resolve().parents[2]
_CLUSTER, _ENVIRONMENT = "bench-1", "development"
_CELLS = 5
_PATIENCE = 120.0
_IDLE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class _Parts:
    plane: BlockingControlPlane
    hub: Installation
    agent: Child
    author: Author


def run() -> tuple[list[Row], dict[str, object]]:
    """Run everything; return the rows and what else belongs in the JSON."""
    rows = asyncio.run(decision.measure(path_of("opa")))
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="cellward-bench-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        parts = _start(stack, directory)
        try:
            rows += _idle(parts)
            rows += _apply(parts)
            rows += _drift(parts)
            rows += _memory(parts, "busy", f"with {_CELLS} cells")
        except BaseException:
            sys.stderr.write(f"bench: the agent's log ends with:\n{parts.agent.tail()}\n")
            raise
    return rows, {"nodes": "simulated", "objects_per_cell": OBJECTS, "cells": _CELLS}


def _start(stack: ExitStack, directory: Path) -> _Parts:
    _say("starting etcd, kube-apiserver, controller-manager, scheduler, kwok and a hub")
    plane = stack.enter_context(BlockingControlPlane(_CLUSTER, directory / "plane", nodes=2))
    plane.install_agent_chart()
    hub = Installation(directory)
    stack.callback(lambda: drive(hub.stop()))
    hub.start()
    hub.set_up()
    author = Author(hub.home, _ENVIRONMENT, directory / "bundles")
    asyncio.run(_publish(hub, author))
    agent = _agent(plane, hub, directory / "agent")
    stack.callback(lambda: drive(agent.stop()))
    agent.start()
    _until("the agent to connect and to verify its policy", agent, lambda: _settled(hub))
    return _Parts(plane, hub, agent, author)


def _agent(plane: BlockingControlPlane, hub: Installation, directory: Path) -> Child:
    """Invite the cluster and complete the written configuration; every interval stays the default."""
    facts = ("--environment", _ENVIRONMENT, "--no-production", "--region", "bench")
    hub.cli.run("clusters", "invite", _CLUSTER, *facts, "--agent-config", str(directory))
    file = directory / "agent.yaml"
    config: dict[str, Any] = yaml.safe_load(file.read_text())
    config |= {
        "kubeconfig": str(plane.agent_kubeconfig(directory / "kubeconfig")),
        "opa_binary": str(path_of("opa")),
        "guards_dir": str(_ROOT / "charts/cellward-agent/files"),
        "log_level": "warning",
    }
    file.write_text(yaml.safe_dump(config))
    return part("agent", ["agent", "run", "--config", str(file)], directory / "agent.log", hub.home)


async def _publish(hub: Installation, author: Author) -> None:
    _, body = author.publication()
    async with Admin(hub.api_address, hub.ca_file, hub.token_file.read_text().strip()) as admin:
        await admin.post("/policy/publications", body)


def _settled(hub: Installation) -> bool:
    cluster = hub.api.get(f"/clusters/{_CLUSTER}")
    return bool(cluster["connected"]) and cluster["policy"]["snapshot"] > 0


def _idle(parts: _Parts) -> list[Row]:
    _say(f"idle for {_IDLE_SECONDS:g} s")
    pid = _pid(parts.agent)
    before = usage(pid).cpu
    time.sleep(_IDLE_SECONDS)
    share = (usage(pid).cpu - before) / _IDLE_SECONDS * 100
    return [*_memory(parts, "idle", "idle"), Row("agent_cpu", "agent CPU while idle, of one core", share, "%")]


def _memory(parts: _Parts, key: str, when: str) -> list[Row]:
    pid = _pid(parts.agent)
    opa = next((child for child in children(pid) if comm(child) == "opa"), 0)
    return [
        Row(f"agent_rss_{key}", f"agent RSS without OPA, {when}", usage(pid).rss, "MB", 100 if key == "idle" else None),
        Row(f"opa_rss_{key}", f"OPA RSS, {when}", usage(opa).rss if opa else float("nan"), "MB"),
    ]


def _apply(parts: _Parts) -> list[Row]:
    _say(f"{_CELLS} cells of {OBJECTS} objects, one after the other")
    acked: list[float] = []
    ready: list[float] = []
    for number in range(_CELLS):
        cell = f"cell-{number}"
        digest, body = parts.author.deployment(manifest(cell))
        began, times = asyncio.run(_apply_one(parts, cell, digest, body))
        acked.append(times["acknowledged"] - began)
        ready.append(times["ready"] - began)
    spread = f"median of {_CELLS} cells, {min(ready):.2f} to {max(ready):.2f}"
    return [
        Row("apply_acked", f"{OBJECTS}-object cell: upload → applied and acked", percentile(acked, 0.5), "s"),
        Row("apply_ready", f"{OBJECTS}-object cell: upload → ready", percentile(ready, 0.5), "s", note=spread),
    ]


async def _apply_one(parts: _Parts, cell: str, digest: str, body: bytes) -> tuple[float, dict[str, float]]:
    """Upload and look every 20 ms at what the hub knows; returns the start and when each state was first seen."""
    hub, seen = parts.hub, dict[str, float]()
    async with Admin(hub.api_address, hub.ca_file, hub.token_file.read_text().strip()) as admin:
        await admin.get("/status")
        began = time.monotonic()
        await admin.post("/documents", body)
        while "ready" not in seen or "acknowledged" not in seen:
            states: list[dict[str, Any]] = (await admin.get(f"/cells/{PROJECT}/{cell}"))["states"]
            at = time.monotonic()
            state = next((item for item in states if item["desiredDigest"] == digest), dict[str, Any]())
            if state.get("acknowledged") is False:
                raise RuntimeError(f"the agent refused {cell}: {state['refusals']}")
            if state.get("acknowledged"):
                seen.setdefault("acknowledged", at)
            if state.get("phase") == "ready" and state["deploymentDigest"] == digest:
                seen.setdefault("ready", at)
            if at - began > _PATIENCE:
                raise TimeoutError(f"{cell} was not ready within {_PATIENCE:g} s: {state}")
            await asyncio.sleep(0.02)
    return began, seen


def _drift(parts: _Parts) -> list[Row]:
    _say("tampering with images")
    namespaces = [namespace_of(PROJECT, f"cell-{number}", _ENVIRONMENT) for number in range(_CELLS)]
    return drift.measure(parts.plane.admin, [(space, name) for name in WORKLOADS for space in namespaces])


def _pid(child: Child) -> int:
    child.check()
    if child.pid is None:
        raise RuntimeError(f"{child.name} was not started")
    return child.pid


def _until(what: str, child: Child, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        child.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {_PATIENCE:g} s for {what}; the log ends with:\n{child.tail()}")
        time.sleep(0.1)


def _say(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")
