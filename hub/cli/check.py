"""``cellward check``: what is well and what is not, from this machine over the hub to every agent, each with a hint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import typer

from cellward.checks.model import Check, Result
from hub.cli import errors
from hub.cli.clusters import all_clusters
from hub.cli.context import DEFAULT_HOME, HomeOption, Local, OutputOption, command, local, now
from hub.cli.output import Format, printable, show_data

if TYPE_CHECKING:
    from hub.api import schemas
    from hub.cli.client import Client

#: Snapshot lives shorter than this are told before they end; a schedule should have renewed it.
SOON = timedelta(days=1)
#: Audit records waiting on an agent beyond which something holds them up.
SPOOL_LIMIT = 10_000


@command
def check(home: HomeOption = DEFAULT_HOME, output: OutputOption = Format.table) -> None:
    """Check hub, trust, policy and every cluster; exit 1 when something is red, 3 when the hub is unreachable."""
    from cellward.checks.runner import run_checks, table_lines

    report = run_checks(_Checks(local(home)).all())
    if output in {Format.json, Format.yaml}:
        show_data(report.to_json(), output)
    elif output is Format.name:
        for result in report.results:
            print(f"{result.id}{'/' + result.subject if result.subject else ''}")
    else:
        print(printable("\n".join(table_lines(report.results))))
        print()
        print("all is well" if report.ok else "something is not well")
    if report.exit_code:
        raise typer.Exit(report.exit_code)


@dataclass
class _Checks:
    """The checks, and what the first ones found for the later ones."""

    place: Local
    client: Client | None = None
    trust: schemas.Trust | None = None
    clusters: list[schemas.Cluster] = field(default_factory=list)

    def all(self) -> tuple[Check, ...]:
        """Every check in order."""
        return (
            Check("hub", "hub/reachable", self.hub),
            Check("trust", "trust/realm", self.realm),
            Check("policy", "policy/published", self.policy),
            Check("clusters", "clusters/list", self.every_cluster),
        )

    def hub(self) -> Iterator[Result]:
        """The hub answers, knows the token, and its parts are well."""
        from hub.api import schemas

        client = self.place.client()
        who = client.get("/whoami", schemas.WhoAmI)
        self.client = client
        yield Result("hub", "hub/reachable", True, f"answers; this is {who.subject} ({who.role})")
        for component in client.get("/status", schemas.Status).components:
            if component.category == "hub":
                yield Result(
                    "hub",
                    f"hub/{component.name}",
                    component.ok,
                    component.message or ("well" if component.ok else component.code),
                    component.hint,
                    component.code,
                )

    def realm(self) -> Iterator[Result]:
        """Local trust and the hub's agree."""
        from hub.api import schemas

        trust = self.place.home.trust()
        if self.client is None:
            yield _skipped("trust", "trust/realm")
            return
        served = self.trust = self.client.get("/trust", schemas.Trust)
        if served.realm != trust.realm:
            raise errors.FOREIGN_HUB(f"the hub serves realm {served.realm or '(none)'}, trust.yaml names {trust.realm}")
        yield Result("trust", "trust/realm", True, f"realm {trust.realm.removeprefix('sha256:')[:16]}")
        same = served.tree_head_spki == trust.tree_head_spki
        hint = "" if same else "Find out why: the hub's keys were replaced, or this is another hub."
        message = "as in trust.yaml" if same else "the hub shows another key than trust.yaml"
        yield Result("trust", "trust/audit-key", same, message, hint)
        kind = "evaluation: keys unencrypted, one person" if trust.evaluation else "keys are encrypted"
        yield Result("trust", "trust/keys", True, kind)

    def policy(self) -> Iterator[Result]:
        """Policy is published, and neither snapshot nor timestamp has run out."""
        from hub.api import schemas

        if self.client is None:
            yield _skipped("policy", "policy/published")
            return
        policy = self.client.get("/policy", schemas.Policy)
        if policy.published is None:
            hint = "Run `cellward policy publish DIR`."
            yield Result("policy", "policy/published", False, "no policy was published yet", hint)
            return
        count = f"{len(policy.bundles)} bundles, {len(policy.bindings)} bindings"
        yield Result("policy", "policy/published", True, f"snapshot {policy.published.snapshot_version}: {count}")
        left = policy.published.snapshot_expires - now()
        message = f"expires {policy.published.snapshot_expires:%Y-%m-%d %H:%M} UTC"
        yield Result("policy", "policy/snapshot", left > SOON, message, "Run `cellward policy refresh`.")
        if policy.timestamp_expires is not None:
            alive = policy.timestamp_expires > now()
            message = f"expires {policy.timestamp_expires:%Y-%m-%d %H:%M} UTC"
            hint = "The hub renews it by itself; look at its log."
            yield Result("policy", "policy/timestamp", alive, message, hint)

    def every_cluster(self) -> Iterator[Result]:
        """Each cluster, as its agent reported it last."""
        if self.client is None:
            yield _skipped("clusters", "clusters/list")
            return
        clusters = all_clusters(self.client)
        if not clusters:
            yield Result("clusters", "clusters/list", None, "there are none; next: cellward clusters invite NAME")
        for cluster in clusters:
            yield from _cluster(cluster)


def _cluster(cluster: schemas.Cluster) -> Iterator[Result]:
    def result(name: str, ok: bool | None, message: str, hint: str = "", code: str = "") -> Result:
        return Result("clusters", f"clusters/{name}", ok, message, hint, code, cluster.name)

    if not cluster.joined:
        yield result("connected", None, "invited, nobody joined yet")
        return
    seen = f"last seen {cluster.last_seen:%Y-%m-%d %H:%M:%S} UTC" if cluster.last_seen else "never seen"
    hint = "Look at the agent's log; it keeps enforcing what it verified while it is away."
    yield result("connected", cluster.connected, "link is open" if cluster.connected else seen, hint)
    # What an agent said before it went away says nothing about now.
    known = None if not cluster.connected else True
    for condition in cluster.conditions:
        ok = known and condition.ok
        message = condition.message or ("well" if condition.ok else condition.code)
        yield result(condition.name, ok, message if ok is not None else seen, condition.hint, condition.code)
    expires = cluster.policy.snapshot_expires
    if expires is None:
        yield result("policy-fresh", False, "no verified policy set yet", "Run `cellward policy publish DIR`.")
    else:
        message = f"snapshot {cluster.policy.snapshot}, expires {expires:%Y-%m-%d %H:%M} UTC"
        yield result("policy-fresh", expires > now(), message, "Run `cellward policy refresh`.", "policy/expired")
    if cluster.certificate_expires is not None:
        message = f"expires {cluster.certificate_expires:%Y-%m-%d %H:%M:%S} UTC"
        hint = "It renews itself at half its life; look at the agent's log."
        yield result("certificate", known and cluster.certificate_expires > now(), message, hint)
    message = f"{cluster.spool_depth} audit records wait"
    hint = "Look at condition audit of this cluster and at the hub's log."
    yield result("spool", known and cluster.spool_depth < SPOOL_LIMIT, message, hint)


def _skipped(category: str, name: str) -> Result:
    return Result(category, name, None, "not looked at: the hub does not answer")
