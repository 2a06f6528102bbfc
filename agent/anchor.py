"""The anchor of the agent's state: a Secret in its own namespace that notices an emptied or set-back disk (V1).

Holds no secret today; it is a Secret so that the chart can grant it by name and no cell can read it.
"""

from __future__ import annotations

import base64
import json
from typing import Final

from agent.kube.interfaces import JSONObject, KubeApi, ObjectRef
from agent.spool.errors import ANCHOR_DAMAGED
from agent.spool.interfaces import AnchorState
from cellward.errors import CellwardError

#: Name of the Secret, as the chart grants it.
ANCHOR_NAME: Final = "cellward-agent-anchor"
_MANAGER: Final = "cellward-agent"
_FIELD: Final = "anchor.json"

#: Largest epoch and sequence number believed; above them records could not be numbered any more.
_MAX_EPOCH: Final = 2**31
_MAX_SEQ: Final = 2**53 - 1


class SecretAnchor:
    """Keeps the anchor in a Secret; satisfies ``agent.spool.interfaces.Anchor``."""

    def __init__(self, kube: KubeApi, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace

    async def load(self) -> AnchorState | None:
        """Return the anchor, None when there is no Secret; raises kube/* and ``spool/anchor-damaged``."""
        try:
            found = await self._kube.get(ObjectRef("v1", "Secret", self._namespace, ANCHOR_NAME))
        except CellwardError as error:
            if error.code == "kube/not-found":
                return None
            raise
        try:
            return _parsed(base64.b64decode(found["data"][_FIELD], validate=True))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ANCHOR_DAMAGED(f"Secret {self._namespace}/{ANCHOR_NAME} does not hold an anchor") from error

    async def save(self, state: AnchorState) -> None:
        """Replace the anchor; durable in etcd when it returns."""
        body = {"uid": state.uid, "epoch": state.epoch, "seq": state.seq, "floorsDigest": state.floors_digest}
        manifest: JSONObject = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": ANCHOR_NAME, "namespace": self._namespace},
            "type": "Opaque",
            "data": {_FIELD: base64.b64encode(json.dumps(body, sort_keys=True).encode()).decode()},
        }
        await self._kube.apply(manifest, manager=_MANAGER, force=True)


def _parsed(data: bytes) -> AnchorState:
    body = json.loads(data)
    state = AnchorState(str(body["uid"]), int(body["epoch"]), int(body["seq"]), str(body["floorsDigest"]))
    if not 0 <= state.epoch <= _MAX_EPOCH or not 0 <= state.seq <= _MAX_SEQ:
        raise ValueError("a number out of its bounds")
    return state
