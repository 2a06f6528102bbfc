"""Reading cells and their placement from files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli import errors
from cli.home import read_file

if TYPE_CHECKING:
    from cellward.cells.load import CellManifest, PlacementManifest
    from cli.planning import Target
    from cli.state.model import Key

#: Files taken from a directory, and the most of them.
SUFFIXES, MAX_FILES = (".yaml", ".yml"), 256
_MAX_MANIFEST = 1024 * 1024


def load(paths: Sequence[Path]) -> tuple[dict[Key, CellManifest], list[PlacementManifest]]:
    """Cells and placements of files and directories; raises cells/*, cli/bad-file."""
    from cellward.cells.errors import DUPLICATE
    from cellward.cells.load import load_manifests

    cells: dict[Key, CellManifest] = {}
    placements: list[PlacementManifest] = []
    for path in _files(paths):
        manifests = load_manifests(read_file(path, _MAX_MANIFEST), str(path))
        placements += manifests.placements
        for manifest in manifests.cells:
            if manifest.key in cells:
                first = cells[manifest.key].source
                raise DUPLICATE(f"cell {'/'.join(manifest.key)} is in {first} and in {path}")
            cells[manifest.key] = manifest
    if not cells:
        raise errors.BAD_FILE(f"there is no Cell in {', '.join(map(str, paths))}")
    return cells, placements


def _files(paths: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(item for item in path.iterdir() if item.suffix in SUFFIXES and item.is_file())
        else:
            found.append(path)
    if len(found) > MAX_FILES:
        raise errors.BAD_FILE(f"{len(found)} files; at most {MAX_FILES} are taken at once")
    return found


def targets(
    cells: Mapping[Key, CellManifest],
    placements: Iterable[PlacementManifest],
    environments: Sequence[str],
    confirm_prune: int,
) -> dict[Key, Target]:
    """Where each cell of the files goes; a cell may also be placed alone, by a Deployment without the cell."""
    from cellward.cells.errors import DUPLICATE, UNKNOWN_TARGET
    from cellward.documents import names
    from cellward.documents.facts import Selector
    from cli.planning import Target

    found: dict[Key, Target] = {}
    for placement in placements:
        for cell in placement.cells or tuple(name for project, name in cells if project == placement.project):
            key = (placement.project, cell)
            if key not in cells:
                raise UNKNOWN_TARGET(f"{placement.source} places {'/'.join(key)}, which is not in the files")
            if key in found:
                raise DUPLICATE(f"{placement.source} places {'/'.join(key)} a second time")
            found[key] = Target(
                tuple(sorted(placement.environments)),
                placement.selector,
                placement.rollout,
                max(placement.confirm_prune, confirm_prune),
            )
    for key in cells:
        if key in found:
            continue
        if not environments:
            raise errors.BAD_OPTION(
                f"nothing says where {'/'.join(key)} goes", hint="Add --environment, or a Deployment to the files."
            )
        wanted = tuple(sorted({names.check_environment(name) for name in environments}))
        found[key] = Target(wanted, Selector(environments=wanted), {}, confirm_prune)
    return found
