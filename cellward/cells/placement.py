"""The Deployment YAML: where cells go; one signed Deployment per cell is made from it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from cellward.cells.model import CellName, EnvironmentName, ProjectName, ShortText, Strict
from cellward.documents import names


def _dns_label(value: str) -> str:
    if not names.is_label(value):
        raise ValueError("not an RFC 1123 label")
    return value


class PlacementMetadata(Strict):
    """Which project's cells are placed."""

    name: Annotated[str, AfterValidator(_dns_label)]
    project: ProjectName


class PlacementSelector(Strict):
    """Chooses clusters by their facts; read by ``cellward.documents.facts.Selector``."""

    all: bool | None = None
    names: list[ShortText] | None = None
    environments: list[EnvironmentName] | None = None
    production: bool | None = None
    regions: list[ShortText] | None = None
    labels: dict[ShortText, Annotated[str, StringConstraints(max_length=253)]] | None = None


class PlacementRollout(Strict):
    """How a Deployment is carried out."""

    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    deadline_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None
    max_failures: Annotated[int, Field(ge=0, le=100_000)] | None = None
    soak_seconds: Annotated[int, Field(ge=0, le=604_800)] | None = None


class PlacementSpec(Strict):
    """Where cells go: one Deployment per cell is signed from it."""

    cells: Annotated[list[CellName], Field(min_length=1, max_length=64)]
    environments: Annotated[list[EnvironmentName], Field(min_length=1, max_length=16)]
    cluster_selector: PlacementSelector
    rollout: PlacementRollout = PlacementRollout()
    confirm_prune: Annotated[int, Field(ge=0, le=100_000)] = 0


class Placement(Strict):
    """A Deployment as its team writes it."""

    api_version: Literal["cellward.dev/v1alpha1"]
    kind: Literal["Deployment"]
    metadata: PlacementMetadata
    spec: PlacementSpec
