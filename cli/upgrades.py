"""``cellward clusters upgrade``: what is to be brought up to date, in which order, and by which command.

It changes nothing. Versions are the hub's word and are shown; no word of a hub's gets into a command, which is made of
trust.yaml and of what the caller says.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cellward.version import VERSION, Release, release_of
from cli import errors
from cli.context import command, local
from cli.joining import NAMESPACE, RELEASE, chart_of
from cli.options import DEFAULT_HOME, HomeOption, OutputOption
from cli.output import Format, put, say, show_list
from cli.views import Shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cellward.api import schemas
    from cli.home import Home, Trust

HUB = "cellward-hub"
_IMAGE = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
State = Literal["up-to-date", "upgrade", "hub-first", "newer", "unknown", "not-joined"]
#: States in which somebody has to do something.
DUE: frozenset[State] = frozenset({"upgrade", "hub-first", "unknown"})
_WORDS: dict[State, str] = {
    "up-to-date": "up to date",
    "upgrade": "to be upgraded",
    "hub-first": "to be upgraded after the hub",
    "newer": "newer than what is wanted",
    "unknown": "says no version; to be upgraded",
    "not-joined": "has not joined",
}


class Upgrade(Shown):
    """One part of the installation: what it is, and what brings it up to date."""

    part: Literal["hub", "agent"]
    cluster: str = ""
    version: str
    wanted: str
    state: State
    linked: bool = True
    command: str = ""


@command
def upgrade(
    name: Annotated[str, typer.Argument(metavar="[CLUSTER]", help="Only this cluster, beside the hub.")] = "",
    to: Annotated[
        str, typer.Option(help="The version wanted; default: the newer one of the hub and this command.")
    ] = "",
    hub_image: Annotated[str, typer.Option(help="Image of the hub as REPOSITORY@sha256:DIGEST, for its command.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 when something is to be done.")] = False,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Say which command brings the hub and each cluster up to date, the hub first; nothing is changed."""
    from cellward.api import schemas
    from cli.clusters import all_clusters

    place = local(home)
    trust = place.home.trust()
    lines = {"hub": _hub_line(place.home, trust, hub_image), "agent": _agent_line(place.home, trust)}
    client = place.trusted_client(trust)
    hub = client.get("/status", schemas.Status).version
    found = [client.get(f"/clusters/{name}", schemas.Cluster)] if name else all_clusters(client)
    steps = list(plan(hub, found, _wanted(to, hub), lines))
    show_list(
        steps,
        output,
        (
            ("part", lambda item: item.part),
            ("cluster", lambda item: item.cluster or "-"),
            ("version", lambda item: item.version or "-"),
            ("wanted", lambda item: item.wanted),
            ("state", lambda item: _WORDS[item.state] + ("" if item.linked else "; the hub refuses its link")),
        ),
        lambda item: f"cluster/{item.cluster}" if item.cluster else "hub",
    )
    due = [step for step in steps if step.state in DUE]
    if output is Format.table:
        _show_commands(due)
    say("versions are the hub's word; `helm list` in the cluster says what is installed there")
    if check and due:
        raise typer.Exit(1)


def plan(hub: str, clusters: Sequence[schemas.Cluster], wanted: Release, lines: dict[str, str]) -> Iterator[Upgrade]:
    """Compare the hub and each cluster with the version wanted; the hub comes first, as it is upgraded first."""
    own = release_of(hub)
    first = _state(own, wanted)
    yield Upgrade(
        part="hub", version=hub, wanted=str(wanted), state=first, command=lines["hub"] if first in DUE else ""
    )
    for cluster in sorted(clusters, key=lambda each: each.name):
        agent = release_of(cluster.agent_version)
        state = _state(agent, wanted) if cluster.joined else "not-joined"
        if state == "upgrade" and first in DUE:
            state = "hub-first"
        yield Upgrade(
            part="agent",
            cluster=cluster.name,
            version=cluster.agent_version,
            wanted=str(wanted),
            state=state,
            linked=agent is None or own is None or agent.near(own),
            command=lines["agent"] if state in DUE else "",
        )


def _state(found: Release | None, wanted: Release) -> State:
    if found is None:
        return "unknown"
    if found == wanted:
        return "up-to-date"
    return "upgrade" if found < wanted else "newer"


def _wanted(to: str, hub: str) -> Release:
    """The version to reach; raises cli/bad-option."""
    if to:
        if (said := release_of(to)) is None:
            raise errors.BAD_OPTION(f"--to {to!r} is not MAJOR.MINOR.PATCH")
        return said
    return max(found for found in (release_of(hub), release_of(VERSION)) if found is not None)


def _show_commands(due: Sequence[Upgrade]) -> None:
    """Each command under what it is for: an agent's is run with the kubeconfig of its cluster."""
    for step in due:
        where = f"in cluster {step.cluster}" if step.cluster else "in the hub's cluster"
        put()
        put(f"# {where}")
        put(step.command or f"# {_MISSING[step.part]}")


_MISSING = {
    "hub": "no command: give --hub-image REPOSITORY@sha256:DIGEST, and have the charts beside one another",
    "agent": "no command: set image: REPOSITORY@sha256:DIGEST of the agent in trust.yaml",
}


def _agent_line(home: Home, trust: Trust) -> str:
    if not trust.image:
        return ""
    if not _IMAGE.fullmatch(trust.image):
        raise errors.BAD_FILE(f"{home.file('trust.yaml')}: image {trust.image!r} is not REPOSITORY@sha256:DIGEST")
    return _line(RELEASE, chart_of(home, trust), NAMESPACE, trust.chart_version, trust.image)


def _hub_line(home: Home, trust: Trust, image: str) -> str:
    """The hub's chart is where the agent's is; empty where that cannot be known."""
    if image and not _IMAGE.fullmatch(image):
        raise errors.BAD_OPTION(f"--hub-image {image!r} is not REPOSITORY@sha256:DIGEST")
    base, slash, chart = chart_of(home, trust).rpartition("/") if image else ("", "", "")
    return _line(HUB, f"{base}{slash}{HUB}", HUB, trust.chart_version, image) if chart == RELEASE else ""


def _line(release: str, chart: str, namespace: str, version: str, image: str) -> str:
    """A line that keeps what was set at the install, takes the new chart's defaults for the rest, and a new image."""
    repository, _, digest = image.partition("@")
    words = ["helm", "upgrade", release, chart, "--namespace", namespace, "--reset-then-reuse-values"]
    words += ["--version", version] if version else []
    # Literal: nothing in a value has a meaning to helm.
    for key, value in (("image.repository", repository), ("image.digest", digest)):
        words += ["--set-literal", f"{key}={value}"]
    return shlex.join(words)
