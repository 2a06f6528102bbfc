"""The cell inside a signed release: written before signing, read strictly afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import cast

from pydantic import ValidationError

from cellward.cells.errors import BAD_SPEC, SPEC_TOO_NEW
from cellward.cells.model import Cell, CellSpec
from cellward.cells.problems import describe
from cellward.cells.validate import validate_spec
from cellward.documents.canonical import JSON
from cellward.documents.model import Release


def spec_to_json(spec: CellSpec) -> dict[str, JSON]:
    """Return the spec as it is signed; what equals its default is left out, so that new fields harm no older agent."""
    return cast("dict[str, JSON]", spec.model_dump(mode="json", by_alias=True, exclude_defaults=True))


def parse_spec(value: Mapping[str, JSON], where: str) -> CellSpec:
    """Read a signed spec strictly.

    Raises cells/spec-too-new for a field nobody knows here, cells/bad-spec for anything malformed, and what
    ``validate_spec`` raises.
    """
    try:
        spec = CellSpec.model_validate(dict(value))
    except ValidationError as error:
        problems = describe(error)
        if problems.unknown:
            raise SPEC_TOO_NEW(f"{where}: unknown field {problems.unknown[0]}", field=problems.unknown[0]) from error
        raise BAD_SPEC(f"{where}: {problems.text}", field=problems.first) from error
    validate_spec(spec, where)
    return spec


def spec_of(release: Release) -> CellSpec:
    """Return the cell of a release, every connection resolved and in agreement with what it names.

    Raises what :func:`parse_spec` raises, and cells/bad-spec when release and spec disagree.
    """
    where = f"release {release.project}/{release.cell} {release.version}"
    spec = parse_spec(release.spec, where)
    if (spec.version, spec.owner) != (release.version, release.owner):
        raise BAD_SPEC(f"{where}: version or owner differ between release and spec", field="spec.version")
    for index, connection in enumerate(spec.connections):
        if connection.external is not None:
            continue
        at = f"spec.connections.{index}.resolved"
        resolved = connection.resolved
        if resolved is None:
            raise BAD_SPEC(f"{where}: {at} is missing", field=at)
        if (resolved.project, resolved.cell) != (connection.project or release.project, connection.cell):
            raise BAD_SPEC(f"{where}: {at} is another cell than the one connected to", field=at)
        if (resolved.project, resolved.cell) == (release.project, release.cell):
            raise BAD_SPEC(f"{where}: {at} is the cell itself", field=at)
    return spec


def build_release(
    cell: Cell,
    resolved: Mapping[str, JSON],
    *,
    realm: str,
    issued_at: datetime,
    not_after: datetime | None = None,
    replace: bool = False,
) -> Release:
    """Return the release of a cell with its resolved spec, ready for ``build_document``."""
    return Release(
        realm=realm,
        project=cell.metadata.project,
        cell=cell.metadata.name,
        version=cell.spec.version,
        owner=cell.spec.owner,
        spec=resolved,
        issued_at=issued_at,
        not_after=not_after,
        replace=replace,
    )
