"""The anchor of the agent's state: a Secret in its own namespace that notices an emptied or set-back disk (V1).

It holds a copy of all floors, so that neither a lost volume nor a lost Secret lets older content be accepted again. No
secret is in it; it is a Secret so that the chart can grant it by name, to the agent alone, and no cell can read it.
"""

from __future__ import annotations

import base64
import json
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from agent.kube.interfaces import JSONObject, KubeApi, ObjectRef
from agent.spool.errors import ANCHOR_DAMAGED, FLOORS_TOO_LARGE
from agent.spool.interfaces import AnchorState, FloorsCopy
from cellward.documents import canonical
from cellward.documents.fields import DIGEST
from cellward.documents.floors import Floor
from cellward.documents.names import CellKey
from cellward.documents.numbers import milliseconds
from cellward.errors import CellwardError
from cellward.policy.floors import PolicyFloors

#: Name of the Secret, as the chart grants it.
ANCHOR_NAME: Final = "cellward-agent-anchor"
#: Most bytes of the floors as they are stored, below the 1 MiB of a Secret: about 60 a cell.
MAX_FLOORS: Final = 900 * 1024
_MANAGER: Final = "cellward-agent"
_FIELD: Final = "anchor.json"
_FLOORS: Final = "floors.json.zlib"
#: Most bytes that are unpacked.
_MAX_PLAIN: Final = 16 * 1024 * 1024
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAMAGED: Final = (KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError, zlib.error)

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
            anchor, floors = (base64.b64decode(found["data"][name], validate=True) for name in (_FIELD, _FLOORS))
            return _parsed(anchor, _unpacked(floors))
        except (*_DAMAGED, CellwardError) as error:
            raise ANCHOR_DAMAGED(f"Secret {self._namespace}/{ANCHOR_NAME} does not hold an anchor") from error

    async def save(self, state: AnchorState) -> None:
        """Replace the anchor; durable in etcd when it returns. Raises kube/* and ``spool/floors-too-large``."""
        numbers = {"uid": state.uid, "epoch": state.epoch, "seq": state.seq, "closings": state.closings}
        anchor = json.dumps(numbers, sort_keys=True).encode()
        manifest: JSONObject = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": ANCHOR_NAME, "namespace": self._namespace},
            "type": "Opaque",
            "data": {
                _FIELD: base64.b64encode(anchor).decode(),
                _FLOORS: base64.b64encode(_packed(state.floors)).decode(),
            },
        }
        await self._kube.apply(manifest, manager=_MANAGER, force=True)


def _packed(floors: FloorsCopy) -> bytes:
    cells = [
        [*key, floor.sequence, floor.digest, None if floor.issued_at is None else milliseconds(floor.issued_at)]
        for key, floor in sorted(floors.cells.items())
    ]
    data = zlib.compress(json.dumps({"cells": cells, "policy": floors.policy}, separators=(",", ":")).encode())
    if len(data) > MAX_FLOORS:
        raise FLOORS_TOO_LARGE(f"{len(data)} bytes of floors of {len(cells)} cells; {MAX_FLOORS} are kept")
    return data


def _unpacked(data: bytes) -> FloorsCopy:
    unpacker = zlib.decompressobj()
    plain = unpacker.decompress(data, _MAX_PLAIN)
    if not unpacker.eof:
        raise ValueError("the floors are longer than they may be, or cut off")
    body = json.loads(plain)
    if body["policy"] is not None:
        # What cannot be written down would end every start.
        canonical.encode(body["policy"])
        PolicyFloors.from_json(body["policy"])
    return FloorsCopy({CellKey(*map(str, row[:3])): _floor(*row[3:]) for row in body["cells"]}, body["policy"])


def _floor(sequence: Any, digest: Any, issued_at: Any) -> Floor:
    if type(sequence) is not int or not 0 < sequence <= _MAX_SEQ or not DIGEST.match(digest):
        raise ValueError("a floor is malformed")
    return Floor(sequence, digest, None if issued_at is None else _EPOCH + timedelta(milliseconds=int(issued_at)))


def _parsed(data: bytes, floors: FloorsCopy) -> AnchorState:
    body = json.loads(data)
    # An agent of before counted no closings.
    closings = int(body["closings"]) if "closings" in body else 0
    state = AnchorState(str(body["uid"]), int(body["epoch"]), int(body["seq"]), floors, closings)
    if not 0 <= state.epoch <= _MAX_EPOCH or not 0 <= state.seq <= _MAX_SEQ or not 0 <= closings <= _MAX_SEQ:
        raise ValueError("a number out of its bounds")
    return state
