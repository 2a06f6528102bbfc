"""``cellward clusters remove``: ends what the hub has of a cluster, and says what only its administrator can end."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from cli import errors
from cli.context import command, local
from cli.joining import NAMESPACE, RELEASE
from cli.options import DEFAULT_HOME, ClusterArgument, DryRunOption, HomeOption, OutputOption
from cli.output import Format, say, show_one, show_table

if TYPE_CHECKING:
    from cli.home import Home


@command
def remove(
    name: ClusterArgument,
    confirm: Annotated[
        str, typer.Option("--confirm", help="The name again, as confirmation: it cannot be undone.")
    ] = "",
    dry_run: DryRunOption = False,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Decommission a cluster: its streams, certificates, join tokens and desired items end; the record keeps all of it.

    A hub deletes nothing on a cluster. What runs there goes on, guarded by its agent, until the chart is uninstalled.
    """
    from cellward.api import schemas

    place = local(home)
    client = place.client()
    if dry_run:
        # Nobody but the hub knows its tokens, and it tells only what it revoked.
        gone = schemas.RemovedCluster(cluster=client.get(f"/clusters/{name}", schemas.Cluster), join_tokens=None)
    elif confirm != name:
        raise errors.BAD_OPTION(
            f"removing {name} cannot be undone, its name is never used again", hint=f"Repeat it with --confirm {name}."
        )
    else:
        gone = client.delete(f"/clusters/{name}", schemas.RemovedCluster)
        _forget(place.home, name)
    tokens = "not counted" if gone.join_tokens is None else str(gone.join_tokens)
    row = [gone.cluster.name, gone.cluster.uid or "-", "yes" if gone.cluster.connected else "no", tokens]
    headings = ("cluster", "uid", "was connected", "tokens revoked")
    show_one(gone, output, lambda: show_table(headings, [row]), f"cluster/{gone.cluster.name}")
    if dry_run:
        say("nothing was removed")
        return
    say(
        "cells keep running there while the agent is installed; end them first with `cellward "
        "delete`, or uninstall it now:"
    )
    say(f"  helm uninstall {RELEASE} --namespace {NAMESPACE}")
    say(f"  kubectl delete namespace {NAMESPACE}")


def _forget(home: Home, name: str) -> None:
    """Take the cluster out of trust.yaml: what stands there is missed by `cellward check`."""
    if not home.file("trust.yaml").exists():
        return
    with home.state(home.trust()).locked():
        # Read under the lock: an invitation may have added its own meanwhile.
        known = home.trust()
        if name in known.clusters:
            left = {other: facts for other, facts in known.clusters.items() if other != name}
            home.write_trust(replace(known, clusters=left))
