"""A small cell as text, and short ways to load, release and render cells in tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cellward.cells.load import CellManifest, load_cells
from cellward.cells.render import RenderedCell, render
from cellward.cells.resolve import resolve_cells
from cellward.cells.spec import build_release
from cellward.cells.stamps import PLACEHOLDER
from cellward.documents.facts import ClusterFacts
from cellward.documents.model import Release

REALM = "sha256:" + "5" * 64
FACTS = ClusterFacts(name="eu-1", uid="u", environments=("dev", "prod"), production=False)


def component(**changes: Any) -> dict[str, Any]:
    """Return a service with one port."""
    return {"type": "service", "image": "registry.test/web:1", "ports": {"http": {"port": 8080}}, **changes}


def cell(name: str = "web", project: str = "shop", **spec: Any) -> dict[str, Any]:
    """Return a cell as it stands in YAML."""
    return {
        "apiVersion": "cellward.dev/v1alpha1",
        "kind": "Cell",
        "metadata": {"name": name, "project": project},
        "spec": {"version": "1.0.0", "owner": "team", "components": {"web": component()}, **spec},
    }


def load(*cells: Mapping[str, Any]) -> list[CellManifest]:
    """Load cells; JSON is YAML."""
    return load_cells("\n---\n".join(json.dumps(item) for item in cells), "test.yaml")


def releases(cells: Sequence[CellManifest]) -> list[Release]:
    """Resolve cells together and release them."""
    specs = resolve_cells(cells, {})
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return [build_release(item.cell, specs[item.key], realm=REALM, issued_at=moment) for item in cells]


def release_of(*cells: Mapping[str, Any]) -> Release:
    """Return the release of the last cell."""
    return releases(load(*cells))[-1]


def rendered(*cells: Mapping[str, Any], environment: str = "dev") -> RenderedCell:
    """Render the last cell."""
    return render(release_of(*cells), FACTS, environment, PLACEHOLDER)


def found(cell_: RenderedCell, kind: str, name: str) -> dict[str, Any]:
    """Return one rendered object."""
    return next(item for item in cell_.objects if (item["kind"], item["metadata"]["name"]) == (kind, name))
