"""Answers of the admin API about what cells use; the rest is in ``cellward.api.schemas``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cellward.api.base import Response
from cellward.api.fields import ClusterName, Moment


class CellUsage(Response):
    """What a cell uses on one cluster, as its agent measured it last; null where nobody knows."""

    project: str
    cell: str
    environment: str
    cluster: ClusterName
    state: Literal["current", "old", "unknown"] = Field(
        default="unknown", description="unknown: the cluster has no metrics server, is silent, or nothing runs."
    )
    measured_at: Moment | None = Field(default=None, description="When the oldest part of it was measured.")
    pods: int | None = Field(default=None, description="Pods that did not end.")
    cpu_cores: float | None = None
    memory_bytes: float | None = None
    cpu_requests_cores: float | None = None
    memory_requests_bytes: float | None = None
    cpu_limits_cores: float | None = Field(default=None, description="null also if a container has no limit.")
    memory_limits_bytes: float | None = Field(default=None, description="null also if a container has no limit.")


class UsageList(Response):
    """A page of what cells use."""

    items: list[CellUsage]
    next_cursor: str = ""
