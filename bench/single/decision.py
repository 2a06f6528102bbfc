"""Decision latency: the agent's engine with a real OPA child over its Unix socket, each question built again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.policy.engine import Engine
from agent.policy.engines import Engines
from agent.policy.gate import BoundBundle
from bench.numbers import Row, percentile
from bench.single.cell import rendered
from cellward.documents.facts import ClusterFacts, Selector
from cellward.policy.bundle import build_bundle, read_bundle
from cellward.policy.model import Binding, DecisionInput
from cellward.runtime.health import HealthRegistry

_BUNDLE = Path(__file__).resolve().parents[2] / "policies/starter"
_ENVIRONMENT = "development"
_FACTS = ClusterFacts(
    name="bench", uid="00000000-0000-4000-8000-000000000000", environments=(_ENVIRONMENT,), production=False,
    labels={}, region="bench", projects=("*",),
)  # fmt: skip
_WARM_UP, _TIMES = 30, 400


async def measure(opa: Path) -> list[Row]:
    """Ask for one object, for the twenty of a cell, and for twenty workloads."""
    bundle = read_bundle(build_bundle(_BUNDLE))
    binding = Binding("bench", bundle.target_path, bundle.digest, Selector(environments=(_ENVIRONMENT,)))
    cell = rendered(_FACTS, _ENVIRONMENT)
    workload = next(item for item in cell if item["kind"] == "Deployment")
    engine = Engine(opa, [BoundBundle(binding, bundle)], _question([workload]), HealthRegistry())
    await engine.start()
    try:
        rows: list[Row] = []
        cases: tuple[tuple[str, str, Sequence[dict[str, Any]], float | None], ...] = (
            ("decision_1", "decision, 1 Deployment", [workload], None),
            ("decision_20", "decision, the 20 objects of a cell", cell, 10),
            ("decision_20w", "decision, 20 Deployments", [workload] * 20, 10),
        )
        for key, text, objects, bar in cases:
            times = await _times(Engines(engine, ()), objects)
            rows += [
                Row(f"{key}_p50", f"{text}, p50", percentile(times, 0.5), "ms"),
                Row(f"{key}_p99", f"{text}, p99", percentile(times, 0.99), "ms", bar),
            ]
        return rows
    finally:
        await engine.stop()


async def _times(engines: Engines, objects: Sequence[dict[str, Any]]) -> list[float]:
    times: list[float] = []
    for number in range(_WARM_UP + _TIMES):
        began = time.perf_counter()
        decision = await engines.decide(_question(objects))
        if number >= _WARM_UP:
            times.append((time.perf_counter() - began) * 1000)
        if not decision.allowed:
            raise RuntimeError(f"the benchmark's own cell is refused: {decision.violations[0]}")
    return times


def _question(objects: Sequence[dict[str, Any]]) -> DecisionInput:
    digest = "sha256:" + "0" * 64
    return DecisionInput(
        time=datetime.now(UTC),
        realm=digest,
        facts=_FACTS,
        environment=_ENVIRONMENT,
        project="bench",
        cell="rendered",
        release={"digest": digest, "version": "1.0.0", "owner": "team-bench"},
        deployment={"digest": digest, "sequence": 1, "environments": [_ENVIRONMENT]},
        signers=({"keyid": "0" * 64, "owner": "bench", "kinds": ["release", "deployment"]},),
        isolation="unknown",
        objects=tuple(objects),
    )
