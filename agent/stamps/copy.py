"""The copy of the stamps in the agent's namespace, and the mark by which the guards know that all cells are stamped.

The copy is a field of the anchor's Secret under a field manager of its own, so that neither writer takes the other's
field away. The mark is in a ConfigMap that the chart makes and the policy ``cellward-unstamped`` reads.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import structlog

from agent.anchor import ANCHOR_NAME
from agent.kube.errors import KUBE_FORBIDDEN, KUBE_NOT_FOUND
from agent.kube.interfaces import JSONObject, KubeApi, ObjectRef
from agent.stamps.state import StampState, state_from_text
from cellward.errors import CellwardError

_log = structlog.get_logger()

_MANAGER: Final = "cellward-agent-stamps"
_FIELD: Final = "stamps.json"
#: Name of the ConfigMap, as the chart makes it.
MARK_NAME: Final = "cellward-stamps"


class StampCopy:
    """Reads and writes both."""

    def __init__(self, kube: KubeApi, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace

    async def load(self) -> StampState | None:
        """Return the copy, None when there is none that can be read; raises kube/* when the API server is away."""
        try:
            found = await self._kube.get(ObjectRef("v1", "Secret", self._namespace, ANCHOR_NAME))
        except CellwardError as error:
            if error.code == KUBE_NOT_FOUND.code:
                return None
            raise
        text = (found.get("data") or {}).get(_FIELD)
        if text is None:
            return None
        try:
            return state_from_text(base64.b64decode(text, validate=True).decode())
        except (binascii.Error, TypeError, ValueError) as error:
            # Nothing that was accepted is believed because of it: new stamps are made, or those on disk hold.
            _log.error("stamps-copy-damaged", reason=type(error).__name__)
            return None

    async def save(self, state: StampState) -> None:
        """Replace the copy; durable in etcd when it returns."""
        data = {_FIELD: base64.b64encode(state.to_text().encode()).decode()}
        await self._kube.apply(self._object("Secret", ANCHOR_NAME, data), manager=_MANAGER, force=True)

    async def mark(self) -> None:
        """Say that every cell is stamped; a chart without the ConfigMap asks for no mark."""
        try:
            await self._kube.apply(
                self._object("ConfigMap", MARK_NAME, {"stamped": "true"}), manager=_MANAGER, force=True
            )
        except CellwardError as error:
            if error.code not in {KUBE_FORBIDDEN.code, KUBE_NOT_FOUND.code}:
                raise
            _log.warning("stamps-not-marked", code=error.code, reason=error.message)

    def _object(self, kind: str, name: str, data: dict[str, str]) -> JSONObject:
        metadata = {"name": name, "namespace": self._namespace}
        return {"apiVersion": "v1", "kind": kind, "metadata": metadata, "data": data}
