"""``cellward clusters``: invite and list. What a cluster is told to trust comes from trust.yaml, never from the hub."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import errors
from cli.context import DEFAULT_HOME, HomeOption, OutputOption, command, local
from cli.home import ClusterProfile, Home, Trust, parse_yaml, read_file
from cli.output import Format, Shown, say, show_data, show_list, show_one

if TYPE_CHECKING:
    from cellward.api import schemas
    from cli.client import Client

app = typer.Typer(no_args_is_help=True, help="Clusters and their join lines.")

#: Namespace of the agent, and the Secret its chart reads the join token from.
NAMESPACE, SECRET, RELEASE = "cellward-system", "cellward-join", "cellward-agent"
_RENDER = ("--dry-run=client", "-o", "yaml")
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
        bool, typer.Option("--replace", help="A new installation may take the name from the one bound to it.")
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
        _settings_found(agent_config)
    else:
        _check_image(trust, place.home, needed=output is Format.table)
    client = place.trusted_client(trust)
    token = _mint(client, name, replace=replace_agent)
    place.home.write_trust(replace(trust, clusters={**trust.clusters, name: profile}))
    if agent_config is not None:
        path = write_agent_config(agent_config, name, trust, profile, token)
        made = Invited(cluster=name, config=str(path), expires_at=token.expires_at)
        show_one(made, output, lambda: print(path), f"cluster/{name}")
        say(f"start it with: cellward-agent run --config {shlex.quote(str(path))}")
    else:
        file = place.home.write(f"join-{name}-token", token.token.encode())
        if output is Format.table:
            print(join_line(place.home, name, trust, profile, token))
            say(f"the line reads the token from {file}, which only you can read")
        elif output is Format.name:
            print(f"cluster/{name}")
        else:
            show_data(chart_values(name, trust, profile, token), output)
        if output is not Format.table:
            say(f"the token is in {file}; it goes into Secret {SECRET} of namespace {NAMESPACE}, key token")
        if not trust.image:
            say("trust.yaml has no image: the chart wants image.repository and image.digest besides")
    say(f"the token is bound to {name} and expires at {token.expires_at:%Y-%m-%d %H:%M:%S} UTC")


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

    found: list[schemas.Cluster] = []
    cursor = ""
    while True:
        page = client.get("/clusters", schemas.ClusterList, cursor=cursor)
        found += page.items
        cursor = page.next_cursor
        if not cursor:
            return found


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


def _mint(client: Client, name: str, *, replace: bool) -> schemas.JoinToken:
    """Mint a token, creating the cluster first when it is new."""
    from cellward.api import schemas
    from cellward.errors import NotFound

    try:
        body = schemas.ClusterCreate(name=name)
    except ValueError as error:
        raise errors.BAD_OPTION(f"{name!r} cannot be the name of a cluster") from error
    try:
        client.get(f"/clusters/{name}", schemas.Cluster)
    except NotFound:
        client.post("/clusters", body, schemas.Cluster)
    return client.post(f"/clusters/{name}/join-tokens", schemas.JoinTokenRequest(replace=replace), schemas.JoinToken)


def chart_values(name: str, trust: Trust, profile: ClusterProfile, token: schemas.JoinToken) -> dict[str, Any]:
    """Values of the agent's chart; only address and CA come from the hub."""
    repository, _, digest = trust.image.partition("@")
    return {
        **({"image": {"repository": repository, "digest": digest}} if trust.image else {}),
        "realm": trust.realm,
        "root": read_file(trust.root_file).decode(),
        "hub": {"enrolmentAddress": token.enrolment_address, "ca": token.hub_ca_pem},
        "join": {"tokenSecret": SECRET},
        "facts": _facts(name, profile),
    }


def join_line(home: Home, name: str, trust: Trust, profile: ClusterProfile, token: schemas.JoinToken) -> str:
    """One line for a shell with the new cluster's kubeconfig: a namespace, the token as a Secret, the chart.

    The token itself is not in it: what is typed is kept in histories, and shown to everybody by ps.
    """
    ca = home.write(f"join-{name}-ca.pem", token.hub_ca_pem.encode(), 0o644)
    secret_file = home.file(f"join-{name}-token")
    repository, _, digest = trust.image.partition("@")
    settings = {
        "realm": trust.realm,
        "hub.enrolmentAddress": token.enrolment_address,
        "join.tokenSecret": SECRET,
        **({"image.repository": repository, "image.digest": digest} if trust.image else {}),
        "facts.name": name,
        "facts.production": str(profile.production).lower(),
        "facts.region": profile.region,
        "facts.environments": "{" + ",".join(profile.environments) + "}",
        "facts.projects": "{" + ",".join(profile.projects) + "}",
        **{f"facts.labels.{_escape(key, '.,=[]')}": value for key, value in profile.labels.items()},
    }
    helm = ["helm", "upgrade", "--install", RELEASE, trust.chart, "--namespace", NAMESPACE]
    helm += ["--version", trust.chart_version] if trust.chart_version else []
    for key, value in settings.items():
        text = value if value.startswith("{") else _escape(value, ",{}")
        # Numbers and booleans would change their type on the way; only production is meant to be one.
        helm += ["--set" if key == "facts.production" or value.startswith("{") else "--set-string", f"{key}={text}"]
    for key, file in (("root", trust.root_file), ("hub.ca", ca)):
        helm += ["--set-file", f"{key}={_escape(str(file), ',{}')}"]
    secret = ["kubectl", "create", "secret", "generic", SECRET, "--namespace", NAMESPACE]
    secret.append(f"--from-file=token={secret_file}")
    namespace = ["kubectl", "create", "namespace", NAMESPACE]
    # Made or replaced: the line may be run again, and so may one of a later invitation.
    made = [f"{shlex.join([*words, *_RENDER])} | kubectl apply -f -" for words in (namespace, secret)]
    return " && ".join([*made, shlex.join(helm)])


def _escape(text: str, special: str) -> str:
    """Escape what helm's --set gives a meaning to in a key, or in a value."""
    return "".join("\\" + char if char in special or char == "\\" else char for char in text)


def write_agent_config(
    directory: Path, name: str, trust: Trust, profile: ClusterProfile, token: schemas.JoinToken
) -> Path:
    """Write what an agent outside Kubernetes needs: settings, root, CA and token; returns the settings' path."""
    import yaml

    from cellward.runtime.files import write_atomic

    before = _settings_found(directory)
    directory = directory.resolve()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = {
        "root.json": read_file(trust.root_file),
        "hub-ca.pem": token.hub_ca_pem.encode(),
        "join-token": token.token.encode() + b"\n",
    }
    for file_name, data in files.items():
        write_atomic(directory / file_name, data)
    path = directory / "agent.yaml"
    settings = {
        **before,
        "realm": trust.realm,
        "display_name": name,
        "state_dir": str(directory / "state"),
        "root_file": str(directory / "root.json"),
        "enrolment_address": token.enrolment_address,
        "hub_ca_file": str(directory / "hub-ca.pem"),
        "join_token_file": str(directory / "join-token"),
        "facts": _facts(name, profile),
    }
    write_atomic(path, yaml.safe_dump(settings, sort_keys=False).encode())
    return path


def _settings_found(directory: Path) -> dict[str, Any]:
    """Settings that are there and stay; raises cli/bad-file before anything is made or written."""
    path = directory / "agent.yaml"
    data = read_file(path) if path.exists() else b""
    return parse_yaml(data, path) if data.strip() else {}


def _facts(name: str, profile: ClusterProfile) -> dict[str, Any]:
    return {
        "name": name,
        "environments": list(profile.environments),
        "production": profile.production,
        "labels": dict(profile.labels),
        "region": profile.region,
        "projects": list(profile.projects),
    }
