"""``cellward clusters``: invite and list. What a cluster trusts comes from trust.yaml, never from the hub."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import asking, decommission, endorse, errors, upgrades
from cli.context import command, local
from cli.door.pages import every
from cli.home import ClusterProfile, Home, Trust
from cli.joining import (
    NAMESPACE,
    SECRET,
    chart_of,
    chart_values,
    join_line,
    settings_found,
    write_agent_config,
    write_token,
)
from cli.options import DEFAULT_HOME, HomeOption, OutputOption
from cli.output import Format, put, say, show_data, show_list, show_one
from cli.views import Shown

if TYPE_CHECKING:
    from cellward.api import schemas
    from cli.door.client import Client
    from cli.invitation import Invitation

app = typer.Typer(no_args_is_help=True, help="Clusters and their join lines.")
app.command()(decommission.remove)
app.command()(endorse.endorse)
app.command()(upgrades.upgrade)
app.command("command")(asking.command_agent)

_IMAGE = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")


class Invited(Shown):
    """An agent's configuration that an invitation wrote."""

    cluster: str
    config: str
    expires_at: datetime


@app.command()
@command
def invite(  # noqa: PLR0913 - options of a command
    name: Annotated[str, typer.Argument(help="Name of the cluster; RFC 1123 label, never reused.")],
    environment: Annotated[list[str] | None, typer.Option(help="An environment it hosts; may be repeated.")] = None,
    production: Annotated[bool | None, typer.Option(help="Whether production rules apply; must be said once.")] = None,
    region: Annotated[str | None, typer.Option(help="Region, free text.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="A label KEY=VALUE; may be repeated.")] = None,
    project: Annotated[list[str] | None, typer.Option(help="A project that may run here; default: all.")] = None,
    replace_agent: Annotated[
        bool, typer.Option("--replace", help="Allow a new installation to replace the one that holds the name.")
    ] = False,
    agent_config: Annotated[
        Path | None, typer.Option(help="Write a configuration for `cellward-agent run --config` into this directory.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Print one line that installs the agent and joins it; facts are remembered in trust.yaml."""
    place = local(home)
    trust = place.home.trust()
    profile = _profile(trust.clusters.get(name), environment, production, region, label, project)
    if agent_config is not None:
        settings_found(agent_config, trust)
    else:
        _check_image(trust, place.home, needed=output is Format.table)
        if output is Format.table:
            chart_of(place.home, trust)
    client = place.trusted_client(trust)
    invitation = _mint(client, name, profile, replace=replace_agent)
    with place.home.state(trust).locked():
        # Read again: another invitation may have added its own meanwhile.
        known = place.home.trust()
        place.home.write_trust(replace(known, clusters={**known.clusters, name: profile}))
    if agent_config is not None:
        path = write_agent_config(agent_config, trust, profile, invitation)
        made = Invited(cluster=name, config=str(path), expires_at=invitation.expires_at)
        show_one(made, output, lambda: put(str(path)), f"cluster/{name}")
        say(f"start it with: cellward-agent run --config {shlex.quote(str(path))}")
    else:
        _show_values(place.home, trust, profile, invitation, output)
    say(f"the token is bound to {name} and expires at {invitation.expires_at:%Y-%m-%d %H:%M:%S} UTC")


def _show_values(home: Home, trust: Trust, profile: ClusterProfile, invitation: Invitation, output: Format) -> None:
    """Print the line, or what the chart needs; the token goes into a file and nowhere else."""
    file = write_token(home, invitation)
    if output is Format.table:
        put(join_line(home, trust, profile, invitation))
        say(f"the line reads the token from {file}, which only you can read")
        return
    if output is Format.name:
        put(f"cluster/{invitation.cluster}")
    else:
        show_data(chart_values(trust, profile, invitation), output)
    say(f"the token is in {file}; it goes into Secret {SECRET} of namespace {NAMESPACE}, key token")
    if not trust.image:
        say("trust.yaml has no image: the chart wants image.repository and image.digest besides")


def _check_image(trust: Trust, home: Home, *, needed: bool) -> None:
    """Before a token is minted: the chart takes an image by digest and has none by itself."""
    if not trust.image and needed:
        raise errors.NO_IMAGE(f"{home.file('trust.yaml')} names no image of the agent")
    if trust.image and not _IMAGE.fullmatch(trust.image):
        raise errors.BAD_FILE(
            f"{home.file('trust.yaml')}: image {trust.image!r} is not REPOSITORY@sha256:DIGEST",
            hint="Name the image of the agent by its digest.",
        )


@app.command("list")
@command
def list_clusters(home: HomeOption = DEFAULT_HOME, output: OutputOption = Format.table) -> None:
    """List clusters: connection, facts, policy and authority."""
    show_list(
        all_clusters(local(home).client()),
        output,
        (
            ("cluster", lambda item: item.name),
            ("connected", _connection),
            ("environments", lambda item: ",".join(item.facts.environments) if item.facts else "-"),
            ("production", lambda item: {True: "yes", False: "no"}[item.facts.production] if item.facts else "-"),
            ("region", lambda item: (item.facts.region if item.facts else "") or "-"),
            ("policy", lambda item: str(item.policy.snapshot or "-")),
            ("authority", lambda item: item.authority),
            ("agent", lambda item: item.agent_version or "-"),
        ),
        lambda item: f"cluster/{item.name}",
    )


def all_clusters(client: Client) -> list[schemas.Cluster]:
    """Every cluster, over all pages."""
    from cellward.api import schemas

    return list(every(lambda cursor: client.get("/clusters", schemas.ClusterList, cursor=cursor)))


def _connection(item: schemas.Cluster) -> str:
    if item.locked:
        return "locked"
    if item.connected:
        return "yes"
    return "no" if item.joined else "invited"


def _profile(
    known: ClusterProfile | None,
    environment: list[str] | None,
    production: bool | None,
    region: str | None,
    label: list[str] | None,
    project: list[str] | None,
) -> ClusterProfile:
    """Facts from the options, on top of those remembered; raises cli/bad-option, document/bad-name."""
    from cellward.documents import names

    if known is None and (not environment or production is None):
        raise errors.BAD_OPTION(
            "a new cluster needs --environment, and --production or --no-production",
            hint="Production has no default: what is stricter must be said, not guessed.",
        )
    base = known or ClusterProfile(tuple(environment or ()), bool(production))
    labels = dict(_label(text) for text in label) if label is not None else base.labels
    found = ClusterProfile(
        environments=tuple(environment) if environment else base.environments,
        production=base.production if production is None else production,
        region=base.region if region is None else region,
        labels=labels,
        projects=tuple(project) if project else base.projects,
    )
    for name in found.environments:
        names.check_environment(name)
    for name in found.projects:
        if name != "*":
            names.check_project(name)
    return found


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise errors.BAD_OPTION(f"label {text!r} is not KEY=VALUE")
    return key, value


def _mint(client: Client, name: str, profile: ClusterProfile, *, replace: bool) -> Invitation:
    """Mint a token, creating the cluster first when it is new; raises cli/bad-invitation."""
    from cellward.api import schemas
    from cellward.errors import NotFound
    from cli.invitation import read_invitation

    try:
        body = schemas.ClusterCreate(name=name)
    except ValueError as error:
        raise errors.BAD_OPTION(f"{name!r} cannot be the name of a cluster") from error
    try:
        client.get(f"/clusters/{name}", schemas.Cluster)
    except NotFound:
        client.post("/clusters", body, schemas.Cluster)
    # The hub gives the cluster what this and its own facts both name.
    facts = schemas.InvitedFacts(
        environments=list(profile.environments),
        production=profile.production,
        projects=list(profile.projects),
        region=profile.region,
        labels=dict(profile.labels),
    )
    request = schemas.JoinTokenRequest(replace=replace, facts=facts)
    return read_invitation(client.post(f"/clusters/{name}/join-tokens", request, schemas.JoinToken), name)
