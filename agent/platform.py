"""Which Kubernetes cluster this agent runs in, and what it publishes there about itself.

The hub compares the first with what it saw at first contact: an agent whose state was copied to another cluster gives
itself away (V7). The second is for `cellward clusters endorse`: whoever has the cluster's kubeconfig reads uid, facts
and statement key from the cluster itself, never from a hub.
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any, Final

import structlog

from agent.kube.interfaces import JSONObject, KubeApi, ObjectRef
from agent.link.interfaces import Platform
from cellward.documents.facts import ClusterFacts
from cellward.errors import CellwardError
from cellward.identity.keys import spki_digest
from cellward.runtime.backoff import FullJitter
from cellward.runtime.clock import Timer

#: Name of the ConfigMap in the agent's namespace, as the chart grants it.
PUBLISHED_NAME: Final = "cellward-agent-identity"
#: Schema of what is in it.
PUBLISHED_SCHEMA: Final = "cellward.agent-identity/v1"
_FIELD: Final = "identity.json"
_MANAGER: Final = "cellward-agent"
#: Seconds a Hello waits for the API server: without an answer it goes out all the same.
_PATIENCE: Final = 3.0
#: Seconds between two publications: what somebody took away is there again.
_AGAIN: Final = 3600.0
_log = structlog.get_logger()


class PlatformReader:
    """Asks the API server each time: what is remembered would be copied with the rest."""

    def __init__(self, kube: KubeApi, authority_sha256: str = "") -> None:
        self._kube = kube
        self._authority = authority_sha256

    async def __call__(self) -> Platform:
        """Read it; never raises, and never takes long."""
        try:
            async with asyncio.timeout(_PATIENCE):
                found = await self._kube.get(ObjectRef("v1", "Namespace", "", "kube-system"))
            uid = found["metadata"]["uid"]
        except (CellwardError, TimeoutError, KeyError, TypeError) as error:
            _log.warning("platform-unknown", error=type(error).__name__)
            return Platform()
        return Platform(uid if isinstance(uid, str) else "", self._authority)


class IdentityPublisher:
    """Keeps the ConfigMap with what the agent says of itself; a failure costs nothing but its absence."""

    def __init__(
        self, kube: KubeApi, namespace: str, *, realm: str, facts: ClusterFacts, statement_spki: bytes, timer: Timer
    ) -> None:
        self._kube = kube
        self._timer = timer
        self._manifest = manifest_of(namespace, realm=realm, facts=facts, statement_spki=statement_spki)

    async def run(self) -> None:
        """Publish at the start and each hour, until cancelled."""
        backoff = FullJitter(base=2.0, cap=300.0)
        while True:
            try:
                await self._kube.apply(self._manifest, manager=_MANAGER, force=True)
            except CellwardError as error:
                _log.warning("identity-not-published", code=error.code)
                await backoff.wait(self._timer)
                continue
            backoff.reset()
            await self._timer.sleep(_AGAIN)


def manifest_of(namespace: str, *, realm: str, facts: ClusterFacts, statement_spki: bytes) -> JSONObject:
    """ConfigMap with uid, facts and statement key. Public all of it. Pure."""
    said: dict[str, Any] = {
        "schema": PUBLISHED_SCHEMA,
        "realm": realm,
        "name": facts.name,
        "uid": facts.uid,
        "facts": facts.to_json(),
        "statementKeyid": spki_digest(statement_spki),
        "statementSpki": base64.b64encode(statement_spki).decode(),
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": PUBLISHED_NAME, "namespace": namespace},
        "data": {_FIELD: json.dumps(said, sort_keys=True)},
    }
