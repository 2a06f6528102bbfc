"""``cellward apply``: from YAML to signed Releases and Deployments on the hub, in one command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import errors
from cli.context import (
    DEFAULT_HOME,
    DEFAULT_TIMEOUT,
    DryRunOption,
    HomeOption,
    OutputOption,
    PassphraseOption,
    TimeoutOption,
    WaitOption,
    command,
    local,
    now,
)
from cli.home import Home, Trust, read_file
from cli.output import Format, Shown, say, short, show_list
from cli.signing import Key, known_documents, next_sequence, remember_sequences, sign, upload
from cli.waiting import wait_cells

if TYPE_CHECKING:
    from cellward.cells.load import CellManifest, PlacementManifest
    from cellward.documents.dsse import Ed25519Signer, Envelope
    from cellward.documents.facts import Selector
    from cli.known import KnownDocuments, Placed

#: Files taken from a directory, and the most of them.
SUFFIXES, MAX_FILES = (".yaml", ".yml"), 256
_MAX_MANIFEST = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Target:
    """Where a cell goes."""

    environments: tuple[str, ...]
    selector: Selector
    rollout: Mapping[str, int]
    confirm_prune: int


class Applied(Shown):
    """One line of what was done; ``change`` is deployed, would-deploy or unchanged."""

    project: str
    cell: str
    version: str
    environments: list[str]
    sequence: int
    deployment: str
    release: str
    change: str


@command
def apply(  # noqa: PLR0913 - options of a command
    file: Annotated[list[Path], typer.Option("--file", "-f", help="A YAML file or a directory; may be repeated.")],
    environment: Annotated[
        list[str] | None, typer.Option("--environment", "-e", help="Where to, for cells the files do not place.")
    ] = None,
    valid_days: Annotated[int, typer.Option(min=1, max=3650, help="How long agents may newly accept it.")] = 365,
    confirm_prune: Annotated[int, typer.Option(min=0, help="How many objects may be deleted past the limit.")] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Allow changes that make objects anew.")] = False,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Validate cells, sign Releases and Deployments with the author's key, and hand them to the hub."""
    from cli.keys import load_key

    place = local(home)
    trust = place.home.trust()
    cells, placements = _load(file)
    targets = _targets(cells, placements, environment or (), confirm_prune)
    client = place.trusted_client(trust)
    known = known_documents(client, place.home, trust)
    before = {key: known.newest(*key) for key in targets}
    specs = _resolve(cells, known, before)
    author = load_key(place.home, "author", passphrase_file)
    batch = _Batch(place.home, trust, author, known, timedelta(days=valid_days), replace=replace)
    _tell_conditions(specs)
    for key, target in targets.items():
        batch.add(key, specs[key], target, before[key])
    if batch.envelopes:
        result = upload(client, batch.envelopes, dry_run=dry_run)
        if not dry_run:
            batch.remember()
        say(f"{'would change' if dry_run else 'changed'} on: {', '.join(result.clusters) or 'no cluster matches yet'}")
    _show(batch.lines, output, dry_run=dry_run)
    if wait and not dry_run:
        wait_cells(client, batch.wanted, "ready", timeout)


def _tell_conditions(specs: Mapping[Key, Mapping[str, Any]]) -> None:
    """Say what clusters will not do as the cells ask; nothing of it keeps anybody from signing."""
    from cellward.cells.conditions import conditions_of
    from cellward.cells.spec import parse_spec

    for key, spec in specs.items():
        for found in conditions_of(parse_spec(spec, "/".join(key))):
            say(f"note: {'/'.join(key)} {found.subject}: {found.message} [{found.code}]")


class _Batch:
    """Signs what changed, cell by cell."""

    def __init__(
        self,
        home: Home,
        trust: Trust,
        author: Ed25519Signer,
        known: KnownDocuments,
        life: timedelta,
        *,
        replace: bool,
    ) -> None:
        self._home, self._trust, self._author, self._known = home, trust, author, known
        self._life, self._replace = life, replace
        self._sequences: dict[Key, int] = {}
        self.envelopes: list[Envelope] = []
        self.lines: list[Applied] = []
        #: Deployment digest each cell is to reach, with its environments.
        self.wanted: dict[Key, str] = {}

    def add(self, key: Key, spec: Mapping[str, Any], target: Target, before: Placed | None) -> None:
        """Sign a Release and a Deployment for a cell, unless both would say what the last ones said."""
        from cellward.documents.model import Deployment, Release

        version, owner = str(spec["version"]), str(spec.get("owner", ""))
        if before is not None and not self._replace and _same(before, spec, target):
            last = before.deployment
            self._line(key, version, target, last.sequence, before.digest, last.release_digest)
            return
        issued = now()
        release = Release(
            realm=self._trust.realm,
            project=key[0],
            cell=key[1],
            version=version,
            owner=owner,
            spec=spec,
            issued_at=issued,
            replace=self._replace,
        )
        same_release = before is not None and _same_release(before, spec) and not self._replace
        if before is not None and same_release:
            release_digest = before.deployment.release_digest
        else:
            signed = sign(release, self._author)
            release_digest = signed.digest
            self.envelopes.append(signed)
        sequence = next_sequence(self._home, self._known, key)
        deployment = sign(
            Deployment(
                realm=self._trust.realm,
                project=key[0],
                cell=key[1],
                environments=target.environments,
                release_digest=release_digest,
                sequence=sequence,
                issued_at=issued,
                not_after=issued + self._life,
                cluster_selector=target.selector,
                rollout=target.rollout,
                fallback=_fallback(before, release_digest),
                confirm_prune=target.confirm_prune,
            ),
            self._author,
        )
        self.envelopes.append(deployment)
        self._sequences[key] = sequence
        self._line(key, version, target, sequence, deployment.digest, release_digest, change="deployed")

    def remember(self) -> None:
        """Keep the sequences used, so that a hub that forgets does not make us use one twice."""
        remember_sequences(self._home, self._sequences)

    def _line(
        self,
        key: Key,
        version: str,
        target: Target,
        sequence: int,
        deployment: str,
        release: str,
        change: str = "unchanged",
    ) -> None:
        self.wanted[key] = deployment
        self.lines.append(
            Applied(
                project=key[0],
                cell=key[1],
                version=version,
                environments=list(target.environments),
                sequence=sequence,
                deployment=deployment,
                release=release,
                change=change,
            )
        )


def _load(paths: Sequence[Path]) -> tuple[dict[Key, CellManifest], list[PlacementManifest]]:
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


def _targets(
    cells: Mapping[Key, CellManifest],
    placements: Iterable[PlacementManifest],
    environments: Sequence[str],
    confirm_prune: int,
) -> dict[Key, Target]:
    """Where each cell of the files goes; a cell may also be placed alone, by a Deployment without the cell."""
    from cellward.cells.errors import DUPLICATE, UNKNOWN_TARGET
    from cellward.documents import names
    from cellward.documents.facts import Selector

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


def _resolve(
    cells: Mapping[Key, CellManifest], known: KnownDocuments, before: Mapping[Key, Placed | None]
) -> Mapping[Key, Mapping[str, Any]]:
    """Fill in what connections lead to: from the files first, then from verified releases."""
    from cellward.cells.resolve import resolve_cells

    specs = {key: placed.release.spec for key, placed in before.items() if placed is not None}
    needed = [peer for manifest in cells.values() for peer in _peers(manifest)]
    seen = set(cells)
    while needed:
        peer = needed.pop()
        if peer in seen:
            continue
        seen.add(peer)
        placed = known.newest(*peer)
        if placed is not None:
            specs[peer] = placed.release.spec
            # Theirs too: a circle may close through cells that are not in the files.
            needed += _peers_of_spec(peer[0], placed.release.spec)
    return resolve_cells(list(cells.values()), specs)


def _peers(manifest: CellManifest) -> list[Key]:
    return [
        (connection.project or manifest.key[0], connection.cell)
        for connection in manifest.cell.spec.connections
        if connection.cell is not None
    ]


def _peers_of_spec(project: str, spec: Mapping[str, Any]) -> list[Key]:
    return [
        (str(connection.get("project") or project), str(connection["cell"]))
        for connection in spec.get("connections", ())
        if connection.get("cell")
    ]


def _same(before: Placed, spec: Mapping[str, Any], target: Target) -> bool:
    deployment = before.deployment
    return (
        _same_release(before, spec)
        and deployment.environments == target.environments
        and deployment.cluster_selector.to_json() == target.selector.to_json()
        and dict(deployment.rollout) == dict(target.rollout)
        and target.confirm_prune <= deployment.confirm_prune
    )


def _same_release(before: Placed, spec: Mapping[str, Any]) -> bool:
    from cellward.documents import canonical

    return canonical.encode(before.release.spec) == canonical.encode(spec)


def _fallback(before: Placed | None, release_digest: str) -> str | None:
    """Where to return to while the rollout settles: what ran before, or what that would have returned to."""
    if before is None:
        return None
    last = before.deployment
    return last.release_digest if last.release_digest != release_digest else last.fallback


def _show(lines: list[Applied], output: Format, *, dry_run: bool) -> None:
    if dry_run:
        lines = [
            line.model_copy(update={"change": "would-deploy"}) if line.change == "deployed" else line for line in lines
        ]
    show_list(
        lines,
        output,
        (
            ("cell", lambda item: f"{item.project}/{item.cell}"),
            ("version", lambda item: item.version),
            ("environments", lambda item: ",".join(item.environments)),
            ("sequence", lambda item: str(item.sequence)),
            ("deployment", lambda item: short(item.deployment)),
            ("change", lambda item: item.change),
        ),
        lambda item: f"cell/{item.project}/{item.cell}",
    )
