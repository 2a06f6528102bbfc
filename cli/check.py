"""``cellward check``: what is well and what is not, from this machine over the hub to every agent, each with a hint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import typer

from cellward.checks import errors as codes
from cellward.checks.model import Check, Result
from cellward.errors import CellwardError, ErrorCode
from cli import errors
from cli.clusters import all_clusters
from cli.context import Local, command, instant, local, now
from cli.door.keyring import shown_policy
from cli.door.steps import own_step, relayed_step, split_step
from cli.lives import ca_lives, certificate_life, policy_lives
from cli.options import DEFAULT_HOME, HomeOption, OutputOption
from cli.output import Format, put, put_lines, say, show_data

if TYPE_CHECKING:
    from cellward.api import schemas
    from cli.door.client import Client
    from cli.door.keyring import ShownPolicy

#: Audit records waiting on an agent beyond which something holds them up.
SPOOL_LIMIT = 10_000


def _outcome(results: Sequence[Result]) -> str:
    failed = sum(result.ok is False for result in results)
    skipped = sum(result.ok is None for result in results)
    if failed:
        return f"{failed} check{'s' if failed > 1 else ''} failed"
    return f"all checks passed{f', {skipped} skipped' if skipped else ''}"


@command
def check(home: HomeOption = DEFAULT_HOME, output: OutputOption = Format.table) -> None:
    """Check hub, trust, policy and every cluster; exit 1 when something is red, 3 when the hub is unreachable."""
    from cellward.checks.runner import run_checks, table_lines

    report = run_checks(_Checks(local(home)).all())
    if output in {Format.json, Format.yaml}:
        show_data(report.to_json(), output)
    elif output is Format.name:
        for result in report.results:
            put(f"{result.id}{'/' + result.subject if result.subject else ''}")
    else:
        put_lines(table_lines(report.results))
        put()
        put(_outcome(report.results))
        if any(result.category == "clusters" and result.ok is False for result in report.results):
            say("what clusters report came through the hub: read a command in it before you run it")
    if report.exit_code:
        raise typer.Exit(report.exit_code)


@dataclass
class _Checks:
    """The checks, and what the first ones found for the later ones."""

    place: Local
    client: Client | None = None
    trust: schemas.Trust | None = None
    clusters: list[schemas.Cluster] = field(default_factory=list)
    #: By cluster, what the hub says of its facts beside its invite.
    facts: dict[str, schemas.Component] = field(default_factory=dict)
    #: Why the hub could not be asked.
    why: str = ""

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
        from cellward.api import schemas

        try:
            client = self.place.client()
            who = client.get("/whoami", schemas.WhoAmI)
        except CellwardError as error:
            self.why = error.title.rstrip(".")
            raise
        self.client = client
        yield Result("hub", "hub/reachable", True, f"answers; logged in as {who.subject} ({who.role})")
        for component in client.get("/status", schemas.Status).components:
            if component.category == "clusters" and component.name == "facts":
                self.facts[component.cluster] = component
            elif component.category == "hub":
                own = own_step(component.code)
                message, step = split_step(component.message or ("ok" if component.ok else component.code))
                yield Result(
                    "hub",
                    f"hub/{component.name}",
                    component.ok,
                    message,
                    "" if component.ok else own,
                    component.code,
                    relayed=step or relayed_step(component.hint, own),
                )

    def realm(self) -> Iterator[Result]:
        """Local trust and the hub's agree."""
        from cellward.api import schemas

        trust = self.place.home.trust()
        if self.client is None:
            yield self._skipped("trust", "trust/realm")
            return
        served = self.trust = self.client.get("/trust", schemas.Trust)
        if served.realm != trust.realm:
            raise errors.FOREIGN_HUB(f"the hub serves realm {served.realm or '(none)'}, trust.yaml names {trust.realm}")
        yield Result("trust", "trust/realm", True, f"realm {trust.realm.removeprefix('sha256:')[:16]}")
        same = served.tree_head_spki == trust.tree_head_spki
        message = "as in trust.yaml" if same else "the hub shows another key than trust.yaml"
        yield _line("trust", "trust/audit-key", same, message, codes.OTHER_AUDIT_KEY)
        yield from ca_lives(self.place.home.file("hub-ca.pem"), instant())
        kind = "evaluation: keys unencrypted, one person" if trust.evaluation else "keys are encrypted"
        yield Result("trust", "trust/keys", True, kind)

    def policy(self) -> Iterator[Result]:
        """Policy is published, and neither snapshot nor timestamp has run out."""
        from cellward.api import schemas

        if self.client is None:
            yield self._skipped("policy", "policy/published")
            return
        policy = self.client.get("/policy", schemas.Policy)
        if policy.published is None:
            yield _line("policy", "policy/published", False, "no policy was published yet", codes.NO_POLICY)
            return
        count = f"{_count(len(policy.bundles), 'bundle')}, {_count(len(policy.bindings), 'binding')}"
        yield Result("policy", "policy/published", True, f"snapshot {policy.published.snapshot_version}: {count}")
        if policy.timestamp_expires is not None:
            alive = policy.timestamp_expires > now()
            message = f"expires {policy.timestamp_expires:%Y-%m-%d %H:%M} UTC"
            yield _line("policy", "policy/timestamp", alive, message, codes.TIMESTAMP_ENDED)
        shown = shown_policy(self.client, self.place.home.trust())
        yield self._acceptable(shown)
        yield from policy_lives(shown, instant())

    def _acceptable(self, shown: ShownPolicy) -> Result:
        """Whether what the hub shows may follow what this machine has seen: an old set lives on, too."""
        from cellward.policy.client import keyring_of
        from cellward.policy.trust import accept
        from cli.state.policy import policy_floors

        seen = policy_floors(self.place.home.state(self.place.home.trust()).read())
        try:
            accept(shown.parsed, seen, instant()).with_keys(keyring_of(shown.parsed, shown.files))
        except CellwardError as error:
            return Result("policy", "policy/accepted", False, error.message, error.hint, error.code)
        return Result("policy", "policy/accepted", True, "not older than what this machine has seen")

    def every_cluster(self) -> Iterator[Result]:
        """Each cluster, as its agent reported it last."""
        if self.client is None:
            yield self._skipped("clusters", "clusters/list")
            return
        clusters = all_clusters(self.client)
        hidden = dict.fromkeys(self._invited(), "the hub does not list it, and nobody removed it from here")
        for cluster in clusters:
            found = hidden.pop(cluster.name, None)
            if found and not cluster.joined and self.place.home.file(f"endorsement-{cluster.name}.json").exists():
                hidden[cluster.name] = "its agent was endorsed here, and the hub says that none has joined"
        if not clusters and not hidden:
            yield Result("clusters", "clusters/list", None, "there are none; next: cellward clusters invite NAME")
        for cluster in clusters:
            yield from _cluster(cluster)
            if cluster.name in self.facts:
                yield _facts(self.facts[cluster.name])
        for name, message in sorted(hidden.items()):
            yield Result(
                "clusters", "clusters/listed", False, message, codes.HIDDEN.hint, codes.HIDDEN.code, subject=name
            )

    def _invited(self) -> Iterable[str]:
        """Names in trust.yaml, which no hub writes; none where there is no such file, which is a red line already."""
        try:
            return self.place.home.trust().clusters
        except CellwardError:
            return ()

    def _skipped(self, category: str, name: str) -> Result:
        return Result(category, name, None, f"not looked at: {self.why[:1].lower()}{self.why[1:]}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _line(category: str, name: str, ok: bool, message: str, code: ErrorCode) -> Result:
    """A line that is green, or red with the code's own next step."""
    return Result(category, name, ok, message, "" if ok else code.hint, "" if ok else code.code)


def _facts(component: schemas.Component) -> Result:
    """Whether the cluster reports the facts it was invited with."""
    hint, code = ("", "") if component.ok else (own_step(component.code), component.code)
    return Result("clusters", "clusters/facts", component.ok, component.message, hint, code, component.cluster)


def _cluster(cluster: schemas.Cluster) -> Iterator[Result]:
    def result(name: str, ok: bool | None, message: str, hint: str = "", code: str = "", relayed: str = "") -> Result:
        hint, code, relayed = (hint, code, relayed) if ok is False else ("", "", "")
        return Result("clusters", f"clusters/{name}", ok, message, hint, code, cluster.name, relayed=relayed)

    if not cluster.joined:
        yield result("connected", None, "invited, nobody joined yet")
        return
    seen = f"last seen {cluster.last_seen:%Y-%m-%d %H:%M:%S} UTC" if cluster.last_seen else "never seen"
    message = "link is open" if cluster.connected else seen
    yield result("connected", cluster.connected, message, codes.AGENT_AWAY.hint, codes.AGENT_AWAY.code)
    # What an agent said before it went away says nothing about now.
    known = None if not cluster.connected else True
    for condition in cluster.conditions:
        ok = known and condition.ok
        message, step = split_step(condition.message or ("ok" if condition.ok else condition.code))
        own = own_step(condition.code)
        step = step or relayed_step(condition.hint, own)
        yield result(condition.name, ok, message if ok is not None else seen, own, condition.code, step)
    expires = cluster.policy.snapshot_expires
    if expires is None:
        yield result("policy-fresh", False, "no verified policy set yet", codes.NO_POLICY.hint, codes.NO_POLICY.code)
    else:
        message = f"snapshot {cluster.policy.snapshot}, expires {expires:%Y-%m-%d %H:%M} UTC"
        yield result("policy-fresh", expires > now(), message, "Run `cellward policy refresh`.", "policy/expired")
    if cluster.certificate_expires is not None:
        message = f"expires {cluster.certificate_expires:%Y-%m-%d %H:%M:%S} UTC"
        if known is None:
            yield result("certificate-life", None, message)
        else:
            yield certificate_life(cluster.name, cluster.certificate_expires, instant())
    message = f"{cluster.spool_depth} audit records wait"
    few = known and cluster.spool_depth < SPOOL_LIMIT
    yield result("spool", few, message, codes.RECORDS_WAIT.hint, codes.RECORDS_WAIT.code)
