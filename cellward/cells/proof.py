"""What was measured of the isolation of a cell."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

IsolationState = Literal["enforced", "not-enforced", "unknown"]
Passage = Literal["open", "closed", "unknown"]


def is_wrong(expected: str, measured: str) -> bool:
    """Whether packets did other than the intent says; what could not be tried is not wrong."""
    return measured not in {expected, "unknown"}


@dataclass(frozen=True, slots=True, order=True)
class MeasuredEdge:
    """One edge as the accepted intent has it, and as packets found it.

    Attributes:
        direction: ``egress`` when the cell sends, ``ingress`` when it is sent to.
        component: the cell's own side; empty for any of its pods.
        peer: the other side in words, such as ``cell shop/orders/dev web``, ``api-server`` or ``metadata``.
        protocol: ``TCP`` or ``UDP``.
        port: on the receiving pod.
        expected: what the intent says.
        measured: what packets did; ``unknown`` where none could be sent.
        node: on which the sending pod ran.
    """

    direction: Literal["ingress", "egress"]
    component: str
    peer: str
    protocol: Literal["TCP", "UDP"]
    port: int
    expected: Literal["open", "closed"]
    measured: Passage
    node: str

    @property
    def wrong(self) -> bool:
        """Whether packets did other than the intent says."""
        return is_wrong(self.expected, self.measured)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured of one cell.

    Attributes:
        state: ``enforced`` only when every forbidden edge that was tried is closed, and some were tried.
        at: when, by the agent's clock.
        prober: which prober.
        text: one sentence for a person.
        edges: every edge that was tried, in order.
        egress_lag_seconds: how long a new pod reached a forbidden destination after its first packet; None when that
            was not measured.
        cut: how many edges were left out of ``edges``, for their number.
    """

    state: IsolationState
    at: datetime
    prober: str
    text: str
    edges: tuple[MeasuredEdge, ...] = ()
    egress_lag_seconds: float | None = None
    cut: int = 0
