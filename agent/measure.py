"""Reads the agent's parts into its metrics just before they are shown; the parts themselves only keep counts."""

from __future__ import annotations

from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry

from agent.audit.recorder import Recorder
from agent.link.channels import ChannelHolder
from agent.link.client import LinkClient
from agent.metrics.registry import AgentMetrics
from agent.policy.service import PolicyService
from agent.spool.interfaces import StateDb
from cellward.errors import CellwardError
from cellward.runtime.clock import Timer
from cellward.runtime.health import HealthRegistry
from cellward.telemetry import metrics as names
from cellward.version import VERSION

_log = structlog.get_logger()
#: Seconds between two looks at what can only be asked asynchronously.
_INTERVAL = 5.0


@dataclass
class Gauges:
    """Fills the gauges of ``metrics`` from the parts; ``opa_version`` is the engine's, empty while unknown."""

    metrics: AgentMetrics
    health: HealthRegistry
    db: StateDb
    recorder: Recorder
    policy: PolicyService
    channels: ChannelHolder
    timer: Timer
    link: LinkClient | None = None
    opa_version: str = ""
    _depth: int = 0

    async def run(self) -> None:
        """Keep what only a query tells; runs beside the link until cancelled."""
        while True:
            try:
                self._depth = await self.db.audit.depth()
            except CellwardError as error:
                _log.warning("spool-depth-unknown", code=error.code)
            await self.timer.sleep(_INTERVAL)

    def refreshed(self) -> CollectorRegistry:
        """Set every gauge and return the registry."""
        conditions: dict[tuple[str, ...], float] = {
            (condition.name,): float(condition.ok) for condition in self.health.get()
        }
        self.metrics.set(names.AGENT_INFO, 1, version=VERSION, opa_version=self.opa_version)
        self.metrics.replace(names.AGENT_CONDITION, conditions)
        self.metrics.set(names.AGENT_LINK_CONNECTED, conditions.get(("hub-link",), 0.0))
        self.metrics.set(names.AGENT_SPOOL_RECORDS, self._depth)
        self.metrics.total(names.AGENT_AUDIT_RECORDS, self.recorder.written, outcome="written")
        self.metrics.total(names.AGENT_AUDIT_RECORDS, self.recorder.lost, outcome="lost")
        if self.link is not None:
            self.metrics.total(names.AGENT_LINK_SESSIONS, self.link.sessions_welcomed, outcome="welcomed")
            self.metrics.total(names.AGENT_LINK_SESSIONS, self.link.sessions_failed, outcome="failed")
        identity = self.channels.identity
        if identity is not None:
            self.metrics.set(names.AGENT_CERTIFICATE_EXPIRY, identity.not_after_unix)
        self._policy()
        return self.metrics.registry

    def _policy(self) -> None:
        current = self.policy.current
        if current is None:
            self.metrics.set(names.AGENT_POLICY_EXPIRY, 0)
            return
        self.metrics.set(names.AGENT_POLICY_EXPIRY, current.snapshot_expires.timestamp())
        versions = {
            ("root",): current.root_version,
            ("snapshot",): current.snapshot_version,
            ("targets",): current.targets_version,
        }
        self.metrics.replace(names.AGENT_POLICY_VERSION, {key: float(value) for key, value in versions.items()})
