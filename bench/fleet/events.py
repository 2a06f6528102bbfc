"""What workers tell the parent, one JSON line each. Times are CLOCK_MONOTONIC, which all processes share."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

#: ready: a worker has opened its agents' state (no agent). joined: an identity was obtained. synced: a resume was
#: confirmed by the items' digest. acked: the hub acknowledged a receipt; ``what`` is the Deployment. refused: the same,
#: but the receipt said no. verified: a policy set was accepted; ``what`` is the snapshot version. failed: ``what`` says
#: why.
Kind = Literal["ready", "joined", "synced", "acked", "refused", "verified", "cut", "failed"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened at an agent."""

    kind: Kind
    agent: str
    at: float
    what: str = ""


Emit = Callable[[Kind, str, str], None]


def line_of(event: Event) -> bytes:
    """Return the line of an event."""
    return json.dumps(asdict(event)).encode() + b"\n"


def event_of(line: bytes) -> Event:
    """Return the event of a line; raises ValueError or TypeError for anything else."""
    return Event(**json.loads(line))


def now() -> float:
    """Return the time all processes share."""
    return time.monotonic()
