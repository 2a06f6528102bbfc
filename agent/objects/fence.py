"""Watches the chart's admission policies: missing or changed ones are a finding and stop new releases, never repairs.

The agent has no right to write them (V12); putting them back is for whoever installs the chart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import structlog
import yaml

from agent.audit.interfaces import Entry, RecorderPort
from agent.kube.interfaces import JSONObject, WatchEvent, WatchType
from agent.objects.errors import GUARD_BROKEN
from agent.stamps.state import fingerprint_of
from cellward.runtime.health import HealthRegistry

_log = structlog.get_logger()

CONDITION: Final = "admission-guard"
API_VERSION: Final = "admissionregistration.k8s.io/v1"
KINDS: Final = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
NAMES: Final = (
    "cellward-agent-fence",
    "cellward-cell-labels",
    "cellward-unstamped",
    "cellward-pod-security",
    "cellward-isolation-guard",
)
_CHART_NAMESPACE: Final = "cellward-system"

Key = tuple[str, str]


def load_guards(directory: Path, agent_namespace: str = _CHART_NAMESPACE) -> tuple[JSONObject, ...]:
    """Read the policies and bindings from the chart's plain files, as they are installed in a namespace."""
    found: list[JSONObject] = []
    for file in sorted(directory.glob("*.yaml")):
        text = file.read_text().replace(_CHART_NAMESPACE, agent_namespace)
        found += [one for one in yaml.safe_load_all(text) if one and one["kind"] in KINDS]
    return tuple(found)


def difference(expected: Mapping[str, Any], live: Mapping[str, Any] | None) -> str:
    """Say how a policy or binding differs from the chart's, or return an empty text; pure."""
    if live is None or live["metadata"].get("deletionTimestamp"):
        return "is missing"
    wanted, found = _with_defaults(expected["spec"]), _with_defaults(live["spec"])
    changed = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
    return f"differs from the chart in {', '.join(changed)}" if changed else ""


def _with_defaults(spec: Mapping[str, Any]) -> JSONObject:
    """Fill in what the API server fills in; everything else must be as the chart says, no more and no less."""
    filled = {"failurePolicy": "Fail", **spec} if "validations" in spec else dict(spec)
    if "matchConstraints" in spec:
        rules = [{"scope": "*", **rule} for rule in spec["matchConstraints"].get("resourceRules") or ()]
        defaults = {"namespaceSelector": {}, "objectSelector": {}, "matchPolicy": "Equivalent"}
        filled["matchConstraints"] = {**defaults, **spec["matchConstraints"], "resourceRules": rules}
    return filled


class Fence:
    """The state of the fence; ``handle`` is fed by the watches of both kinds."""

    def __init__(self, expected: Sequence[JSONObject], recorder: RecorderPort, health: HealthRegistry) -> None:
        self._expected: dict[Key, JSONObject] = {(one["kind"], one["metadata"]["name"]): one for one in expected}
        self._recorder = recorder
        self._health = health
        self._live: dict[Key, JSONObject] = {}
        self._synced: set[str] = set()
        self._problem: str | None = "was not looked at yet"
        self._fingerprint = ""

    @property
    def intact(self) -> bool:
        """Whether every policy and binding was seen exactly as the chart has it."""
        return self._problem is None

    def check(self) -> None:
        """Raise apply/admission-guard unless the fence is intact."""
        if self._problem is not None:
            raise GUARD_BROKEN(f"the admission fence {self._problem}", object="ValidatingAdmissionPolicy")

    @property
    def fingerprint(self) -> str:
        """Which guards stand; another one after any absence or change, empty while they are not intact.

        While a kind is listed again it is that of the last whole look, as ``intact`` is.
        """
        return self._fingerprint

    async def handle(self, kind: str, event: WatchEvent) -> bool:
        """Take a watch event; return whether the fence changed from broken to intact or back."""
        if event.type is WatchType.RESTARTED:
            self._synced.discard(kind)
            self._live = {key: one for key, one in self._live.items() if key[0] != kind}
        elif event.type is WatchType.SYNCED:
            self._synced.add(kind)
        elif event.type is WatchType.DELETED:
            self._live.pop((kind, event.object["metadata"]["name"]), None)
        elif event.type in {WatchType.ADDED, WatchType.MODIFIED}:
            self._live[(kind, event.object["metadata"]["name"])] = event.object
        if self._synced != set(KINDS):
            return False
        return await self._judge()

    async def _judge(self) -> bool:
        problems = {
            f"{kind}/{name}": text
            for (kind, name), wanted in self._expected.items()
            if (text := difference(wanted, self._live.get((kind, name))))
        }
        # Without the chart's files there is nothing to compare with, and nothing would look intact.
        problems |= {
            f"{kind}/{name}": "is not among the chart's files"
            for kind in KINDS
            for name in NAMES
            if (kind, name) not in self._expected
        }
        problem = "; ".join(f"{name} {text}" for name, text in problems.items()) or None
        guards = {} if problem else {"/".join(key): self._live[key] for key in self._expected}
        self._fingerprint = fingerprint_of(guards) if guards else ""
        if problem == self._problem:
            return False
        was_intact, self._problem = self.intact, problem
        code = "" if self.intact else GUARD_BROKEN.code
        self._health.set(CONDITION, ok=self.intact, code=code, message=problem or "")
        if problem is not None:
            _log.error("admission-fence-broken", problem=problem)
            entry = Entry(
                "fence.finding", "ValidatingAdmissionPolicy", "finding", code=GUARD_BROKEN.code, reason=problem
            )
            await self._recorder.record_or_count(entry)
        return was_intact != self.intact
