"""Shapes of the admin API about what the isolation of cells was measured by."""

from __future__ import annotations

from pydantic import Field

from cellward.api.base import Response
from cellward.api.fields import Moment


class IsolationEdge(Response):
    """One edge as the accepted intent has it, and as packets found it."""

    direction: str = Field(default="", description="egress when the cell sends, ingress when it is sent to.")
    component: str = Field(default="", description="Component of the cell, empty for any of its pods.")
    peer: str = Field(default="", description="The other side in words.")
    protocol: str = ""
    port: int = 0
    expected: str = Field(default="", description="What the intent says: open or closed.")
    measured: str = Field(default="", description="What packets did: open, closed or unknown.")
    node: str = Field(default="", description="Node of the pod that sent.")


class IsolationProof(Response):
    """What the isolation of a cell was measured by, in the agent's words."""

    state: str = Field(default="unknown", description="enforced, not-enforced or unknown.")
    measured_at: Moment | None = None
    prober: str = ""
    text: str = Field(default="", description="What was found, in a sentence.")
    tried: int = Field(default=0, description="Edges that were tried.")
    wrong: int = Field(default=0, description="Of those that are known here, the ones that are not as expected.")
    egress_lag_seconds: float | None = Field(
        default=None, description="How long a new pod reached what is forbidden to it; null when not measured."
    )
    edges: list[IsolationEdge] = Field(default_factory=list, description="Wrong ones first; only when asked for.")
    edges_cut: int = Field(default=0, description="Edges that the agent tried and did not send.")
