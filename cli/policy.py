"""``cellward policy``: publish, refresh, list. Signs here; the hub adds only its timestamp."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellward.errors import CellwardError
from cli import errors, revocations
from cli.context import command, instant, local
from cli.home import parse_yaml, read_file
from cli.options import (
    DEFAULT_HOME,
    DEFAULT_TIMEOUT,
    DryRunOption,
    HomeOption,
    OutputOption,
    PassphraseOption,
    ProposeOption,
    RecordOption,
    TimeoutOption,
    WaitOption,
)
from cli.output import Format, say, short, show_list, show_one, show_table, tell
from cli.records import Base, Options, base_of
from cli.views import Shown
from cli.waiting import wait_policy

if TYPE_CHECKING:
    from cellward.api import schemas
    from cellward.documents.dsse import Ed25519Signer
    from cellward.policy.bundle import Bundle
    from cellward.policy.ceremony import Proposal
    from cellward.policy.compile import Compiler
    from cellward.policy.model import Binding, BindingSet
    from cellward.policy.publisher import Draft, Publication

app = typer.Typer(no_args_is_help=True, help="Policy bundles and their bindings.")
app.command()(revocations.minimum)

#: File with bindings that is used when it lies beside the bundles.
DEFAULT_BINDINGS = "bindings.yaml"
#: Names the policy engine where it is not on PATH.
OPA_VARIABLE = "CELLWARD_OPA"
#: The version that the tools of this tree build; a test compares the two.
OPA_VERSION = "1.22.2"
#: Whose keys sign what is new in a draft, and the role of it.
_SIGNERS = {"policy": "targets", "keyring": "keyring"}
_TOP = {"bindings", "pruneLimit", "thresholds", "hubAttestation"}
_FIELDS = {"name", "bundle", "selector", "mode", "stalenessSeconds", "onStale", "parameters"}


@app.command()
@command
def publish(  # noqa: PLR0913 - options of a command
    directory: Annotated[Path, typer.Argument(help="A bundle (with .manifest), or a directory of bundles.")],
    bindings: Annotated[
        Path | None, typer.Option(help="YAML with the bindings; default: bindings.yaml beside the bundles, or all.")
    ] = None,
    opa: Annotated[
        Path | None,
        typer.Option(
            help="OPA binary that compiles the bundles; default: from PATH, else the one built by this tree.",
            envvar=OPA_VARIABLE,
        ),
    ] = None,
    skip_compile: Annotated[
        bool, typer.Option("--skip-compile", help="Do not compile bundles before signing; agents compile them anyway.")
    ] = False,
    first_publication: Annotated[
        bool,
        typer.Option(
            "--first-publication",
            help="The first policy of a realm, from another machine than `cellward init` ran on: show all that gets in "
            "force, and ask. Refused where anything is published.",
        ),
    ] = False,
    record: RecordOption = None,
    propose_to: ProposeOption = None,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Build, compile, sign and publish bundles, bindings and the keyring of the record as one set."""
    from cellward.policy import publisher

    options = Options(home, record, dry_run, timeout if wait else None, output, passphrase_file, propose_to)
    archives, bundles = _build(directory)
    _compile(bundles, opa, skip=skip_compile)
    base = base_of(local(home), record)
    chosen = _bindings_file(directory, bindings)
    draft = publisher.draft_policy(
        base.record,
        bundles=archives,
        bindings=_bindings(base.trust.realm, chosen, bundles),
        now=instant(),
        seen=base.seen,
    )
    carry_out(base, draft, options, first=first_publication)


@app.command()
@command
def refresh(
    record: RecordOption = None,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Renew the publisher's snapshot (7 days) over what the record has; nothing else changes. Meant for a schedule."""
    from cellward.policy import publisher

    options = Options(home, record, dry_run, timeout if wait else None, output, passphrase_file)
    base = base_of(local(home), record)
    # The record stays as it is: a schedule need not commit, and numbers go by the clock.
    carry_out(base, publisher.draft_refresh(base.record, seen=base.seen), options, keep=False)


@app.command("list")
@command
def list_policy(home: HomeOption = DEFAULT_HOME, output: OutputOption = Format.table) -> None:
    """Show what the hub serves: versions, bundles and bindings."""
    from cellward.api import schemas

    policy = local(home).client().get("/policy", schemas.Policy)
    if output in {Format.json, Format.yaml}:
        show_one(policy, output, lambda: None, "")
        return
    if policy.published is None:
        say("no policy was published yet; next: cellward policy publish DIR")
    elif output is Format.table:
        _show_versions(policy.published)
    targets = {bundle.target: bundle for bundle in policy.bundles}
    show_list(
        policy.bindings,
        output,
        (
            ("binding", lambda item: item.name),
            ("bundle", lambda item: item.bundle.removeprefix("bundles/").removesuffix(".tar.gz")),
            ("digest", lambda item: short(targets[item.bundle].digest) if item.bundle in targets else "?"),
            ("mode", lambda item: item.mode),
            ("on stale", lambda item: f"{item.on_stale} after {item.staleness_seconds} s"),
            ("selector", lambda item: _selector(item.selector)),
        ),
        lambda item: f"binding/{item.name}",
    )


def _selector(selector: Mapping[str, object]) -> str:
    if selector.get("all") is True:
        return "all"
    return " ".join(f"{key}={','.join(value) if isinstance(value, list) else value}" for key, value in selector.items())


def _build(directory: Path) -> tuple[list[bytes], list[Bundle]]:
    from cellward.policy.bundle import build_bundle, read_bundle

    if not directory.is_dir():
        raise errors.BAD_FILE(f"{directory} is not a directory")
    alone = (directory / ".manifest").exists()
    found = [directory] if alone else sorted(path.parent for path in directory.glob("*/.manifest"))
    if not found:
        raise errors.BAD_FILE(f"{directory} has no .manifest, and no directory in it has one")
    archives = [build_bundle(path) for path in found]
    return archives, [read_bundle(archive) for archive in archives]


def _bindings_file(directory: Path, given: Path | None) -> Path | None:
    return given or (directory / DEFAULT_BINDINGS if (directory / DEFAULT_BINDINGS).exists() else None)


def with_content(draft: Draft, directory: Path, bindings: Path | None) -> Draft:
    """Return a draft with its targets' bytes, built from the directory that they were published from.

    Nothing that is signed changes: raises cli/bad-file where a file is not, byte for byte, what the draft names.
    """
    from tuf.api.metadata import Targets

    from cellward.policy.bindings import dump_bindings
    from cellward.policy.model import BINDINGS_TARGET
    from cellward.policy.trust import digest_of, parse

    archives, bundles = _build(directory)
    made = {bundle.target_path: archive for bundle, archive in zip(bundles, archives, strict=True)}
    made[BINDINGS_TARGET] = dump_bindings(_bindings(draft.record.realm, _bindings_file(directory, bindings), bundles))
    named = parse(Targets, draft.targets).signed.targets
    for path in draft.missing():
        if path not in made or digest_of(made[path]) != f"sha256:{named[path].hashes.get('sha256')}":
            problem = "is not built from" if path not in made else "was signed with other bytes than are built from"
            raise errors.BAD_FILE(
                f"{path} {problem} {directory}",
                hint="Check out the commit of security's repository that was published last, with its bindings.",
            )
    return replace(draft, content={**draft.content, **{path: made[path] for path in draft.missing()}})


def _compile(bundles: Sequence[Bundle], opa: Path | None, *, skip: bool) -> None:
    """Compile as agents will; raises policy/does-not-compile, policy/roots-overlap, cli/bad-option, cli/no-engine.

    Agents refuse what does not compile and go on with the set before it. Here it is known before anything is signed.
    """
    import asyncio

    from cellward.policy.compile import Compiler

    if skip:
        say("not compiled here: agents refuse what does not compile, and keep the set they have")
        return
    asyncio.run(_check(Compiler(_engine(opa)), bundles))


async def _check(compiler: Compiler, bundles: Sequence[Bundle]) -> None:
    from cellward.policy.errors import ENGINE_NOT_STARTABLE, ENGINE_UNAVAILABLE

    try:
        version = await compiler.version()
    except CellwardError as error:
        if error.code not in {ENGINE_NOT_STARTABLE.code, ENGINE_UNAVAILABLE.code}:
            raise
        version = ""
    if not re.match(r"\d+\.\d+\.\d+", version):
        raise errors.BAD_OPTION("what should be OPA does not say its version", hint="Give --opa the path of OPA.")
    await compiler.check(bundles, strict=True)


def _engine(opa: Path | None) -> Path:
    """The OPA to compile with: the one named, one from PATH, or the one built by this tree's tools."""
    found = shutil.which(str(opa) if opa is not None else "opa")
    if found is None and opa is not None:
        raise errors.BAD_OPTION(f"{opa} is not a program", hint="Give --opa the path of the OPA binary.")
    built = _cache() / "tools" / "opa" / OPA_VERSION / "opa"
    if found is None and os.access(built, os.X_OK):
        found = str(built)
    if found is None:
        raise errors.NO_ENGINE(f"opa is neither on PATH nor at {built}")
    return Path(found).resolve()


def _cache() -> Path:
    given = os.environ.get("CELLWARD_CACHE", "")
    return Path(given) if given else Path.home() / ".cache" / "cellward"


def _bindings(realm: str, file: Path | None, bundles: Iterable[Bundle]) -> BindingSet:
    """Bindings from a file; without one, every bundle is enforced on every cluster."""
    from cellward.documents.facts import Selector
    from cellward.policy.model import Binding, BindingSet

    by_name = {bundle.name: bundle for bundle in bundles}
    if file is None:
        everywhere = Selector(all=True)
        ordered = sorted(by_name.items())
        return BindingSet(
            realm, tuple(Binding(name, found.target_path, found.digest, everywhere) for name, found in ordered)
        )
    values = parse_yaml(read_file(file), file, quoted=True)
    unknown = sorted(set(values) - _TOP)
    entries = values.get("bindings")
    if unknown or not isinstance(entries, list):
        problem = f"unknown fields {', '.join(unknown)}" if unknown else "bindings must be a list"
        raise errors.BAD_FILE(f"{file}: {problem}")
    attestation = values.get("hubAttestation") or {}
    try:
        return BindingSet(
            realm,
            tuple(_binding(file, entry, by_name) for entry in entries),
            prune_limit=int(values.get("pruneLimit", 10)),
            thresholds={str(kind): int(count) for kind, count in dict(values.get("thresholds") or {}).items()},
            hub_attestation=tuple(str(name) for name in attestation.get("environments", ())),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise errors.BAD_FILE(f"{file} is malformed: {error}") from error


def _binding(file: Path, entry: Any, bundles: dict[str, Bundle]) -> Binding:
    from cellward.documents.facts import Selector
    from cellward.policy.model import Binding

    if not isinstance(entry, dict) or set(entry) - _FIELDS or "name" not in entry or "selector" not in entry:
        raise errors.BAD_FILE(f"{file}: a binding has name, bundle, selector, and of {', '.join(sorted(_FIELDS))}")
    bundle = bundles.get(str(entry.get("bundle", entry["name"])))
    if bundle is None:
        missing = entry.get("bundle", entry["name"])
        raise errors.BAD_FILE(f"{file}: binding {entry['name']} names bundle {missing!r}, which is not here")
    plain = Binding("", "", "", Selector(all=True))
    mode, on_stale = str(entry.get("mode", plain.mode)), str(entry.get("onStale", plain.on_stale))
    return Binding(
        name=str(entry["name"]),
        bundle=bundle.target_path,
        bundle_digest=bundle.digest,
        selector=Selector.from_json(entry["selector"]),
        mode=mode,  # type: ignore[arg-type]  # dump_bindings reads it back strictly
        staleness_seconds=int(entry.get("stalenessSeconds", plain.staleness_seconds)),
        on_stale=on_stale,  # type: ignore[arg-type]
        parameters=dict(entry.get("parameters") or {}),
    )


class Made(Shown):
    """What a dry run would publish."""

    dry_run: bool
    versions: dict[str, int]
    targets: list[str]


def carry_out(base: Base, draft: Draft, options: Options, *, keep: bool = True, first: bool = False) -> None:
    """Show a draft, propose it, or sign what is new in it and publish it; keys are opened for the last alone.

    ``first`` says that a person was asked for the first publication of the realm: :mod:`cli.first_policy`.
    """
    from cellward.policy import publisher
    from cellward.policy.ceremony import Proposal
    from cli.ceremony import propose, show_signed
    from cli.first_policy import check_first, check_memory
    from cli.keys import load_roles

    proposal = Proposal(draft)
    # What others would be refused to sign is not signed alone either: it could stop every later command.
    proposal.check(base.record)
    proposal.check_times(base.record, instant())
    if options.dry_run:
        preview(base, proposal, options.output)
        return
    show_signed(base.record, proposal)
    if options.propose is not None:
        propose(draft, options.propose)
        return
    (check_first if first else check_memory)(base, draft)
    record = base.record
    fresh = {name: record.keyids(role) for name, role in _SIGNERS.items() if role in draft.fresh}
    keys = load_roles(base.place.home, options.passphrase_file, **fresh, publisher=record.keyids("snapshot"))
    draft = draft.signed(publisher.SigningKeys(policy=keys.get("policy", ()), keyring=keys.get("keyring", ())))
    publication = finish(base, draft, keys["publisher"][:1])
    hand_over(base, publication, options.output, wait=options.wait, keep=keep)


def finish(base: Base, draft: Draft, signers: Sequence[Ed25519Signer]) -> Publication:
    """Show the snapshot over a draft that was signed, field by field, then sign it."""
    from cellward.policy import publisher
    from cellward.policy.payloads import snapshot_differences

    at = instant()
    (unsigned,) = (
        file.data for file in publisher.preview(draft, now=at, seen=base.seen).metadata if file.role == "snapshot"
    )
    say("the snapshot to be signed:")
    tell(f"  {line}" for line in snapshot_differences(base.record.snapshot, unsigned))
    return publisher.finish(draft, signers, now=at, seen=base.seen)


def preview(base: Base, proposal: Proposal, output: Format) -> None:
    """Show what would be published; nobody signs it, and no key is opened."""
    from cellward.policy import publisher
    from cli.ceremony import show_signed

    show_signed(base.record, proposal)
    shown = publisher.preview(proposal.draft, now=instant(), seen=base.seen)
    versions = {file.role: file.version for file in shown.metadata}
    made = Made(dry_run=True, versions=versions, targets=sorted(shown.targets))
    rows = [[role, str(version)] for role, version in versions.items()]
    show_one(made, output, lambda: show_table(("role", "version"), rows), f"policy/{versions['snapshot']}")
    say("dry run: nothing was signed, and nothing was kept")


def hand_over(
    base: Base, publication: Publication, output: Format, *, wait: float | None, keep: bool = True
) -> schemas.PublicationResult:
    """Keep the record, hand the publication to the hub, and show what is served then."""
    if keep and publication.record is not None:
        base.keep(publication.record, signed=True)
    try:
        result = base.upload(publication)
    except CellwardError:
        if keep:
            # It stays in the record: a hub that says no may have handed it to agents.
            say(f"it is signed, and {base.path} has it; hand it over by the same `trust submit`, or `policy refresh`")
        raise
    show_one(result, output, lambda: _show_versions(result), f"policy/{result.snapshot_version}")
    if keep:
        say(f"commit {base.path} to security's repository: without it nobody can publish, refresh or add an author")
    if wait is not None:
        wait_policy(base.client, result.snapshot_version, wait)
    return result


def _show_versions(result: schemas.PublicationResult) -> None:
    show_table(
        ("root", "targets", "keyring", "snapshot", "timestamp", "snapshot expires"),
        [
            [
                str(result.root_version),
                str(result.targets_version),
                str(result.keyring_version),
                str(result.snapshot_version),
                str(result.timestamp_version),
                f"{result.snapshot_expires:%Y-%m-%d %H:%M} UTC",
            ]
        ],
    )
