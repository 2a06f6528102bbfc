"""The hub is killed; agents go on enforcing, repairing and recording, even one that is killed itself meanwhile."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from tools.demo.narrate import wait_for
from tools.demo.scenes.drift import NAMESPACE, TAMPERINGS, repaired_after
from tools.demo.scenes.main_job import wait_ready
from tools.demo.stage import CLUSTERS, Stage
from tools.demo.summary import Summary
from tools.stack.steps import drive


def outage(stage: Stage, summary: Summary) -> None:
    """Kill the hub, tamper, kill and restart an agent, tamper again, bring the hub back, count what was recorded."""
    narrator = stage.narrator
    drive(stage.hub.stop(kill=True))
    down_at, begun = datetime.now(UTC), time.monotonic()
    narrator.step("the hub is killed with SIGKILL")
    repaired_after(stage.kubectl["eu-1"], TAMPERINGS[0])
    narrator.good("eu-1: an image changed meanwhile was put back without the hub")
    agent = stage.agents["eu-1"]
    drive(agent.stop(kill=True))
    image = _tamper_while_dead(stage)
    agent.start()
    narrator.step("eu-1's agent is killed with SIGKILL too, a Service is deleted, the agent is started again")
    wait_for("the restarted agent to repair without the hub", lambda: _service(stage) is not None, 60, narrator)
    narrator.good(f"eu-1: the Service is back ({image}); floors, policy and inventory came from its own disk")
    # A cell's repairs come one after the other: when this one is seen, the one before it is on record.
    repaired_after(stage.kubectl["eu-1"], TAMPERINGS[1])
    narrator.good("eu-1: a sidecar added after that was taken away by the restarted agent")
    # Up to here nothing of the hub was there; what is recorded while it starts does not count.
    back_at, down_ms = datetime.now(UTC), round((time.monotonic() - begun) * 1000)
    stage.start_hub()
    summary.put("hub_down_ms", down_ms)
    stage.wait_connected(*CLUSTERS)
    wait_ready(stage)
    records = wait_for(
        "records of the outage to arrive", lambda: _recorded_between(stage, down_at, back_at), 60, narrator
    )
    summary.put("audit_records_while_down", len(records))
    narrator.good(f"the hub is back; {len(records)} records made while it was down have arrived, in order")


def _tamper_while_dead(stage: Stage) -> str:
    kube = stage.kubectl["eu-1"]
    service = kube.get("service", NAMESPACE, "cartservice")
    kube.delete("service", NAMESPACE, "cartservice")
    wait_for("the Service to be gone", lambda: _service(stage) is None, 15, stage.narrator)
    return service["metadata"]["name"] if service else "none"


def _service(stage: Stage) -> dict[str, Any] | None:
    return stage.kubectl["eu-1"].get("service", NAMESPACE, "cartservice")


def _recorded_between(stage: Stage, start: datetime, end: datetime) -> list[dict[str, Any]]:
    """Records of agents whose own time lies between; both repairs must be among them."""
    records, _ = stage.api.records()
    made = [
        record
        for record in records
        if record["origin"].startswith("agent:") and start <= datetime.fromisoformat(record["time"]) <= end
    ]
    return made if sum(record["action"] == "drift.repair" for record in made) >= 2 else []
