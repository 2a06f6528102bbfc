"""``cellward apply``: from YAML to signed Releases and Deployments on the hub, in one command.

The order is: read files, ask the hub for what only raises numbers, decide, say what will be signed, write it down,
sign, hand it over. A dry run stops before the key is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace as changed
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.context import command, local, now
from cli.options import (
    DEFAULT_HOME,
    DEFAULT_TIMEOUT,
    VALID_DAYS,
    DryRunOption,
    HomeOption,
    OutputOption,
    PassphraseOption,
    TimeoutOption,
    ValidityOption,
    WaitOption,
)
from cli.output import Format, say, short, show_list
from cli.views import Shown
from cli.waiting import wait_cells

if TYPE_CHECKING:
    from cellward.cells.load import CellManifest
    from cellward.documents.dsse import Ed25519Signer
    from cli.door.client import Client
    from cli.door.documents import HubDocuments
    from cli.peers import Peers
    from cli.planning import Order, Plan, Target, Wish
    from cli.state.model import Key, State
    from cli.state.store import Store

#: How long agents may newly accept what is applied, days.


class Applied(Shown):
    """One line of what was done; ``change`` is deployed, would-deploy, delivered-again or unchanged."""

    project: str
    cell: str
    version: str
    environments: list[str]
    sequence: int
    deployment: str
    release: str
    fallback: str | None
    change: str


@command
def apply(  # noqa: PLR0913 - options of a command
    file: Annotated[list[Path], typer.Option("--file", "-f", help="A YAML file or a directory; may be repeated.")],
    environment: Annotated[
        list[str] | None,
        typer.Option("--environment", "-e", help="Environment for cells without a Deployment in the files."),
    ] = None,
    valid_days: ValidityOption = VALID_DAYS,
    fallback: Annotated[
        str,
        typer.Option(
            help="Where a failed rollout goes: previous (the last release that became healthy there), none, or the "
            "digest of a release."
        ),
    ] = "previous",
    peer: Annotated[
        list[str] | None, typer.Option(help="Digest of a peer's release that is in no file; may be repeated.")
    ] = None,
    confirm_prune: Annotated[
        int, typer.Option(min=0, help="How many objects may be deleted beyond the prune limit.")
    ] = 0,
    replace: Annotated[
        bool, typer.Option("--replace", help="Allow changes for which objects must be deleted and recreated.")
    ] = False,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Validate cells, sign Releases and Deployments with the author's key, and hand them to the hub."""
    from cli.door.documents import HubDocuments
    from cli.door.keyring import verifier
    from cli.keys import load_key
    from cli.loading import load, targets
    from cli.memory import Memory
    from cli.peers import Peers, chosen_fallback
    from cli.planning import Order, Wish

    place = local(home)
    trust = place.home.trust()
    cells, placements = load(file)
    wanted = targets(cells, placements, environment or (), confirm_prune)
    client = place.trusted_client(trust)
    store, moment = place.home.state(trust), now()
    memory = Memory(store, store.read(), moment)
    hub = HubDocuments(client, lambda: verifier(client, place.home, trust, moment), moment)
    peers = Peers(memory, hub)
    peers.name(peer or ())
    specs = _resolve(cells, wanted, peers)
    wish = Wish(trust.realm, timedelta(days=valid_days), chosen_fallback(fallback, list(wanted), memory), replace)
    batch = _Batch(store, client, hub, wish, {key: Order.of(hub.numbered(*key)) for key in wanted})
    _tell_conditions(specs)
    batch.decide(store.read(), specs, wanted)
    batch.look()
    if dry_run:
        batch.decide(store.read(), specs, wanted)
        batch.tell(specs)
        batch.try_out()
    else:
        batch.run(load_key(place.home, "author", passphrase_file), peers, specs, wanted)
    _show(batch, specs, output, dry_run=dry_run)
    if wait and not dry_run:
        wait_cells(client, {key: plan.digest for key, plan in batch.plans.items()}, "ready", timeout)


def _tell_conditions(specs: Mapping[Key, Mapping[str, Any]]) -> None:
    """Say what clusters will not do as the cells ask; nothing of it keeps anybody from signing."""
    from cellward.cells.conditions import conditions_of
    from cellward.cells.spec import parse_spec

    for key, spec in specs.items():
        for found in conditions_of(parse_spec(spec, "/".join(key))):
            say(f"note: {'/'.join(key)} {found.subject}: {found.message} [{found.code}]")


class _Batch:
    """Decides, signs and hands over, all cells together."""

    def __init__(
        self, store: Store, client: Client, hub: HubDocuments, wish: Wish, orders: Mapping[Key, Order]
    ) -> None:
        self._store, self._client, self._hub = store, client, hub
        self._wish, self._orders = wish, orders
        self._lost: frozenset[str] = frozenset()
        self.plans: dict[Key, Plan] = {}

    def decide(self, state: State, specs: Mapping[Key, Mapping[str, Any]], targets: Mapping[Key, Target]) -> None:
        """Plan every cell; what the hub lost is handed over as it was."""
        from cli.memory import Memory
        from cli.planning import again, plan_cell

        moment = now()
        memory = Memory(self._store, state, moment)
        for key, target in targets.items():
            plan = plan_cell(key, specs[key], target, self._wish, memory, self._orders[key], moment)
            lost = plan.change == "unchanged" and plan.digest in self._lost
            self.plans[key] = again(plan, memory) if lost else plan

    def look(self) -> None:
        """Ask whether the hub has what it took: about existence it is believed."""
        kept = [plan.digest for plan in self.plans.values() if plan.change == "unchanged"]
        self._lost = frozenset(digest for digest in kept if not self._hub.has(digest))

    def tell(self, specs: Mapping[Key, Mapping[str, Any]]) -> None:
        """Say what is going to be signed."""
        for key, plan in self.plans.items():
            if plan.drafts:
                say(_line(key, specs[key], plan))

    def try_out(self) -> None:
        """Ask what would change, with payloads that nobody signed."""
        from cli.door.documents import try_out

        drafts = [draft for plan in self.plans.values() for draft in plan.drafts]
        if drafts:
            result = try_out(self._client, [(one.payload_type, one.payload) for one in drafts])
            say(f"would change on: {', '.join(result.clusters) or 'no cluster matches yet'}")

    def run(
        self,
        author: Ed25519Signer,
        peers: Peers,
        specs: Mapping[Key, Mapping[str, Any]],
        targets: Mapping[Key, Target],
    ) -> None:
        """Decide under the lock and write it down; then sign, and hand it over."""
        from cli.door.documents import upload
        from cli.signing import remember, sign, taken
        from cli.state.memory import remember as keep

        self._wish = changed(self._wish, keyid=author.keyid)
        with self._store.change() as change:
            for record, payload in peers.learned:
                change.put(payload)
                change.state = keep(change.state, record)
            self.decide(change.state, specs, targets)
            self.tell(specs)
            drafts = [draft for plan in self.plans.values() for draft in plan.drafts]
            remember(change, drafts, author.keyid)
        if drafts:
            result = upload(self._client, sign(self._store, drafts, author))
            taken(self._store, drafts)
            say(f"changed on: {', '.join(result.clusters) or 'no cluster matches yet'}")


def _line(key: Key, spec: Mapping[str, Any], plan: Plan) -> str:
    deployment = plan.deployment
    where = {None: "none", "previous": "previous (the last release that became healthy there)"}
    fallback = where.get(deployment.fallback, deployment.fallback)
    return (
        f"to sign: {'/'.join(key)} {spec['version']} for {','.join(deployment.environments)}, "
        f"release {short(deployment.release_digest)}, sequence {deployment.sequence}, fallback {fallback}"
    )


def _resolve(
    cells: Mapping[Key, CellManifest], targets: Mapping[Key, Target], peers: Peers
) -> Mapping[Key, Mapping[str, Any]]:
    """Fill in what connections lead to: from the files first, then as :class:`~cli.peers.Peers` finds it."""
    from cellward.cells.resolve import resolve_cells
    from cli.peers import peers_of, peers_of_spec

    for key, target in targets.items():
        peers.own(key, target.environments)
    seen = set(cells)
    for manifest in cells.values():
        for key in peers_of(manifest):
            if key not in seen:
                seen.add(key)
                peers.need(key, manifest.key, targets[manifest.key].environments)
    # Theirs too, as far as they are known here: a circle may close through cells that are not in the files.
    waiting: list[tuple[Key, tuple[str, ...]]] = [(key, ()) for key in seen - set(cells)]
    while waiting:
        key, _ = waiting.pop()
        for other in peers_of_spec(key[0], peers.specs.get(key, {})):
            if other not in seen:
                seen.add(other)
                peers.own(other, ())
                waiting.append((other, ()))
    return resolve_cells(list(cells.values()), peers.specs)


def _show(batch: _Batch, specs: Mapping[Key, Mapping[str, Any]], output: Format, *, dry_run: bool) -> None:
    lines: Sequence[Applied] = [
        Applied(
            project=key[0],
            cell=key[1],
            version=str(specs[key]["version"]),
            environments=list(plan.deployment.environments),
            sequence=plan.deployment.sequence,
            deployment=plan.digest,
            release=plan.deployment.release_digest,
            fallback=plan.deployment.fallback,
            change="would-deploy" if dry_run and plan.change == "deployed" else plan.change,
        )
        for key, plan in batch.plans.items()
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
