"""Writes NetworkPolicies as the agent itself; no account of a cell has a right on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agent.isolation.errors import INCOMPLETE
from agent.kube.interfaces import JSONObject, KubeApi, ref_of

#: Field manager of everything the agent writes as itself.
AGENT_MANAGER: Final = "cellward-agent"
_REQUIRED: Final = ("podSelector", "policyTypes", "ingress", "egress")


class NetworkPolicyDriver:
    """Satisfies ``IsolationDriver``."""

    def __init__(self, kube: KubeApi) -> None:
        self._kube = kube

    async def apply(self, objects: Sequence[Mapping[str, Any]]) -> tuple[JSONObject, ...]:
        """Check that every field is there, all of them before the first is written, then apply with force.

        Force is right here and only here from the first contact on: nobody else may own isolation in a cell.
        """
        for policy in objects:
            check_complete(policy)
        return tuple([await self._kube.apply(policy, manager=AGENT_MANAGER, force=True) for policy in objects])


def check_complete(policy: Mapping[str, Any]) -> None:
    """Raise isolation/incomplete-object unless every field is stated: what we do not own, somebody else can widen."""
    spec = policy.get("spec") or {}
    missing = [name for name in _REQUIRED if name not in spec]
    if missing or sorted(spec["policyTypes"]) != ["Egress", "Ingress"]:
        raise INCOMPLETE(f"{ref_of(policy)} lacks {', '.join(missing) or 'a policy type'}", object=str(ref_of(policy)))


def closed(policy: Mapping[str, Any]) -> JSONObject:
    """Return the policy with nothing allowed, for quarantine; pure."""
    return {**policy, "spec": {**policy["spec"], "ingress": [], "egress": []}}
