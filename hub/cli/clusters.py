"""``cellward clusters``: invite and list. What a cluster is told to trust comes from trust.yaml, never from the hub."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hub.cli import errors
from hub.cli.context import DEFAULT_HOME, HomeOption, OutputOption, command, local
from hub.cli.home import ClusterProfile, Home, Trust, read_file
from hub.cli.output import Format, say, show_data, show_list

if TYPE_CHECKING:
    from hub.api import schemas
    from hub.cli.client import Client

app = typer.Typer(no_args_is_help=True, help="Clusters and their join lines.")

#: Namespace of the agent, and the Secret its chart reads the join token from.
NAMESPACE, SECRET, RELEASE = "cellward-system", "cellward-join", "cellward-agent"


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
    client = place.trusted_client(trust)
    token = _mint(client, name, replace=replace_agent)
    place.home.write_trust(replace(trust, clusters={**trust.clusters, name: profile}))
    if agent_config is not None:
        path = write_agent_config(agent_config, name, trust, profile, token)
        print(path)
        say(f"start it with: cellward-agent run --config {shlex.quote(str(path))}")
    elif output is Format.table:
        print(join_line(place.home, name, trust, profile, token))
    elif output is Format.name:
        print(f"cluster/{name}")
    else:
        show_data(chart_values(name, trust, profile, token), output)
        say(f"the token goes into Secret {SECRET}, key token; ask for it with -o table")
    say(f"the token is bound to {name} and expires at {token.expires_at:%Y-%m-%d %H:%M:%S} UTC")


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
    from hub.api import schemas

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
    from cellward.errors import NotFound
    from hub.api import schemas

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
    """One line for a shell with the new cluster's kubeconfig: a namespace, the token as a Secret, the chart."""
    ca = home.write(f"join-{name}-ca.pem", token.hub_ca_pem.encode(), 0o644)
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
    helm = ["helm", "install", RELEASE, trust.chart, "--namespace", NAMESPACE]
    helm += ["--version", trust.chart_version] if trust.chart_version else []
    for key, value in settings.items():
        text = value if value.startswith("{") else _escape(value, ",{}")
        # Numbers and booleans would change their type on the way; only production is meant to be one.
        helm += ["--set" if key == "facts.production" or value.startswith("{") else "--set-string", f"{key}={text}"]
    helm += ["--set-file", f"root={trust.root_file}", "--set-file", f"hub.ca={ca}"]
    secret = ["kubectl", "--namespace", NAMESPACE, "create", "secret", "generic", SECRET]
    secret.append(f"--from-literal=token={token.token}")
    namespace = ["kubectl", "create", "namespace", NAMESPACE]
    return " && ".join(shlex.join(words) for words in (namespace, secret, helm))


def _escape(text: str, special: str) -> str:
    """Escape what helm's --set gives a meaning to in a key, or in a value."""
    return "".join("\\" + char if char in special or char == "\\" else char for char in text)


def write_agent_config(
    directory: Path, name: str, trust: Trust, profile: ClusterProfile, token: schemas.JoinToken
) -> Path:
    """Write what an agent outside Kubernetes needs: settings, root, CA and token; returns the settings' path."""
    import yaml

    from cellward.runtime.files import write_atomic

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
    before = yaml.safe_load(path.read_bytes()) if path.exists() else {}
    settings = {
        **(before if isinstance(before, dict) else {}),
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


def _facts(name: str, profile: ClusterProfile) -> dict[str, Any]:
    return {
        "name": name,
        "environments": list(profile.environments),
        "production": profile.production,
        "labels": dict(profile.labels),
        "region": profile.region,
        "projects": list(profile.projects),
    }
