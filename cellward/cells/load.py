"""Reading cells from YAML text (:mod:`cellward.documents.strict_yaml`), with the place of every error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from cellward.cells.errors import BAD_FIELD, DUPLICATE_KEY, NOT_YAML, TOO_LARGE, UNKNOWN_KIND, YAML_ALIAS
from cellward.cells.model import API_VERSION, Cell, Strict
from cellward.cells.placement import Placement
from cellward.cells.problems import describe
from cellward.documents.canonical import JSON
from cellward.documents.facts import Selector
from cellward.documents.strict_yaml import Problem, YamlError, strict_yaml
from cellward.errors import ErrorCode

M = TypeVar("M", bound=Strict)


@dataclass(frozen=True, slots=True)
class CellManifest:
    """One cell of a file; ``source`` and ``index`` say where it stands, for messages."""

    cell: Cell
    source: str
    index: int

    @property
    def key(self) -> tuple[str, str]:
        """(project, cell)."""
        return self.cell.key


@dataclass(frozen=True, slots=True)
class PlacementManifest:
    """One Deployment of a file: where which cells of a project go, and how."""

    project: str
    cells: tuple[str, ...]
    environments: tuple[str, ...]
    selector: Selector
    rollout: dict[str, int]
    confirm_prune: int
    source: str
    index: int


@dataclass(frozen=True, slots=True)
class Manifests:
    """What a file holds."""

    cells: tuple[CellManifest, ...]
    placements: tuple[PlacementManifest, ...]


def load_manifests(text: str | bytes, source: str) -> Manifests:
    """Read every Cell and Deployment of a file; empty documents are skipped.

    Raises cells/too-large, cells/not-yaml, cells/yaml-alias, cells/duplicate-key, cells/unknown-kind, cells/bad-field,
    each naming ``source``, the document and the field.
    """
    cells: list[CellManifest] = []
    placements: list[PlacementManifest] = []
    for index, value in enumerate(_documents(text, source)):
        if value is None:
            continue
        where = f"{source}, document {index + 1}"
        if not isinstance(value, dict) or value.get("apiVersion") != API_VERSION:
            raise UNKNOWN_KIND(f"{where} is not of apiVersion {API_VERSION}")
        if value.get("kind") == "Cell":
            cells.append(CellManifest(_validate(Cell, value, where), source, index))
        elif value.get("kind") == "Deployment":
            placements.append(_placement(_validate(Placement, value, where), source, index))
        else:
            raise UNKNOWN_KIND(f"{where} has kind {str(value.get('kind'))[:80]!r}")
    return Manifests(tuple(cells), tuple(placements))


def load_cells(text: str | bytes, source: str) -> list[CellManifest]:
    """Read the cells of a file; Deployments in it are read, checked and left out."""
    return list(load_manifests(text, source).cells)


def _validate(model: type[M], value: dict[str, Any], where: str) -> M:
    try:
        found = model.model_validate(value)
    except ValidationError as error:
        problems = describe(error)
        raise BAD_FIELD(f"{where}: {problems.text}", source=where, field=problems.first) from error
    if isinstance(found, Cell):
        for position, connection in enumerate(found.spec.connections):
            if connection.resolved is not None:
                field = f"spec.connections.{position}.resolved"
                raise BAD_FIELD(f"{where}: {field}: is filled in when the release is signed", source=where, field=field)
    return found


def _placement(placement: Placement, source: str, index: int) -> PlacementManifest:
    spec = placement.spec
    selector: JSON = spec.cluster_selector.model_dump(mode="json", exclude_none=True)
    rollout: dict[str, int] = spec.rollout.model_dump(mode="json", exclude_none=True, by_alias=True)
    return PlacementManifest(
        project=placement.metadata.project,
        cells=tuple(spec.cells),
        environments=tuple(spec.environments),
        selector=Selector.from_json(selector),
        rollout=rollout,
        confirm_prune=spec.confirm_prune,
        source=source,
        index=index,
    )


#: Codes of what makes a file no strict YAML.
_CODES: Mapping[Problem, ErrorCode] = {
    "too-large": TOO_LARGE,
    "alias": YAML_ALIAS,
    "duplicate-key": DUPLICATE_KEY,
    "not-yaml": NOT_YAML,
}


def _documents(text: str | bytes, source: str) -> list[Any]:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    try:
        return strict_yaml(data)
    except YamlError as error:
        raise _CODES[error.problem](f"{source}{error.place}: {error.what}") from error
