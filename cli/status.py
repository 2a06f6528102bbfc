"""``cellward status``: the whole installation on one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.clusters import all_clusters
from cli.context import command, local
from cli.door.steps import HEADING, own_step, relayed_step, split_step
from cli.options import DEFAULT_HOME, HomeOption, OutputOption
from cli.output import Format, put, show_one, show_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cellward.api import schemas


@command
def status(home: HomeOption = DEFAULT_HOME, output: OutputOption = Format.table) -> None:
    """Show clusters, cells and their problems."""
    from cellward.api import schemas

    client = local(home).client()
    found = client.get("/status", schemas.Status)
    show_one(found, output, lambda: _table(found, all_clusters(client)), f"realm/{found.realm}")


def _table(found: schemas.Status, clusters: Sequence[schemas.Cluster]) -> None:
    show_table(
        ("realm", "clusters", "connected", "cells ready", "audit records", "hub"),
        [
            [
                found.realm.removeprefix("sha256:")[:16] or "(none)",
                str(found.clusters),
                str(found.connected),
                f"{found.cells_ready}/{found.cells}"
                + (f" ({found.cells_unknown} unknown)" if found.cells_unknown else ""),
                str(found.audit_size),
                found.version,
            ]
        ],
    )
    if clusters:
        put()
        show_table(
            ("cluster", "connected", "environments", "production", "policy", "conditions", "spool", "authority"),
            [_row(cluster) for cluster in clusters],
        )
    red = [component for component in found.components if not component.ok]
    if red:
        put()
    for component in red:
        where = f"{component.cluster}: " if component.cluster else ""
        message, step = split_step(component.message or component.code)
        own = own_step(component.code)
        put(f"✗ {where}{component.name}: {message}")
        step = step or relayed_step(component.hint, own)
        for heading, text in (("code", component.code), ("next", own), (HEADING, step)):
            if text:
                put(f"    {heading}: {text}")


def _row(cluster: schemas.Cluster) -> list[str]:
    facts = cluster.facts
    red = sum(not condition.ok for condition in cluster.conditions)
    return [
        cluster.name,
        "yes" if cluster.connected else "no",
        ",".join(facts.environments) if facts else "-",
        "-" if facts is None else "yes" if facts.production else "no",
        str(cluster.policy.snapshot or "-"),
        f"{len(cluster.conditions) - red}/{len(cluster.conditions)} ok",
        str(cluster.spool_depth),
        cluster.authority,
    ]
