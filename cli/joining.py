"""What installs an agent: the join line with its values file, or the settings of an agent that runs as a process.

Takes local trust, local facts and a checked ``Invitation``. Every file and line comes from a serialiser, so that a
value is a value: nothing is escaped by hand, and ``helm --set`` is not used.
"""

from __future__ import annotations

import csv
import io
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import errors
from cli.home import parse_yaml, read_file

if TYPE_CHECKING:
    from cli.home import ClusterProfile, Home, Trust
    from cli.invitation import Invitation

#: Namespace of the agent, and the Secret its chart reads the join token from.
NAMESPACE, SECRET, RELEASE = "cellward-system", "cellward-join", "cellward-agent"
#: The chart of a working tree; an installed command has none beside it.
_OWN_CHART = Path(__file__).resolve().parents[1] / "charts" / "cellward-agent"
_RENDER = ("--dry-run=client", "-o", "yaml")


def chart_values(trust: Trust, profile: ClusterProfile, invitation: Invitation) -> dict[str, Any]:
    """Values of the agent's chart; only address and CA come from the hub."""
    repository, _, digest = trust.image.partition("@")
    return {
        **({"image": {"repository": repository, "digest": digest}} if trust.image else {}),
        "realm": trust.realm,
        "root": read_file(trust.root_file).decode(),
        "hub": {"enrolmentAddress": str(invitation.address), "ca": invitation.ca_pem},
        "join": {"tokenSecret": SECRET},
        "facts": _facts(profile, invitation),
    }


def write_token(home: Home, invitation: Invitation) -> Path:
    """Keep the join token in a file of the user's own; returns it."""
    return home.write(f"join-{invitation.cluster}-token", invitation.token.encode())


def join_line(home: Home, trust: Trust, profile: ClusterProfile, invitation: Invitation) -> str:
    """One line for a shell with the new cluster's kubeconfig: a namespace, the token as a Secret, the chart.

    The token itself is not in it: what is typed is kept in histories, and shown to everybody by ps.
    """
    cluster = invitation.cluster
    chart = chart_of(home, trust)
    values = home.write(f"join-{cluster}-values.yaml", _quoted_yaml(chart_values(trust, profile, invitation)), 0o644)
    helm = ["helm", "upgrade", "--install", RELEASE, chart, "--namespace", NAMESPACE]
    helm += ["--version", trust.chart_version] if trust.chart_version else []
    helm += ["--values", _csv_field(values)]
    secret = ["kubectl", "create", "secret", "generic", SECRET, "--namespace", NAMESPACE]
    secret.append(f"--from-file=token={home.file(f'join-{cluster}-token')}")
    namespace = ["kubectl", "create", "namespace", NAMESPACE]
    # Made or replaced: the line may be run again, and so may one of a later invitation.
    made = [f"{shlex.join([*words, *_RENDER])} | kubectl apply -f -" for words in (namespace, secret)]
    return " && ".join([*made, shlex.join(helm)])


def chart_of(home: Home, trust: Trust) -> str:
    """Return what helm is given as the chart, from whatever directory the line is run.

    That is ``oci://…`` or the name of a chart as trust.yaml has it, a path as an absolute one (a relative one begins at
    trust.yaml), and without any the chart of the tree this command runs from.

    Raises:
        CellwardError: cli/no-chart, cli/bad-file.
    """
    if trust.chart.startswith("-") or trust.chart_version.startswith("-"):
        raise errors.BAD_FILE(f"{home.file('trust.yaml')}: chart and chartVersion do not begin with '-'")
    if trust.chart and not trust.chart.startswith((".", "/")):
        return trust.chart
    path = (home.path / trust.chart) if trust.chart else _OWN_CHART
    if not (path / "Chart.yaml").is_file() and path.suffix != ".tgz":
        named = f"{home.file('trust.yaml')} names the chart {trust.chart!r}" if trust.chart else "trust.yaml names none"
        raise errors.NO_CHART(f"{named}, and there is none at {path.resolve()}")
    return str(path.resolve())


def write_agent_config(directory: Path, trust: Trust, profile: ClusterProfile, invitation: Invitation) -> Path:
    """Write what an agent outside Kubernetes needs: settings, root, CA and token; returns the settings' path."""
    from cellward.runtime.files import write_atomic

    before = settings_found(directory, trust)
    directory = directory.resolve()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = {
        "root.json": read_file(trust.root_file),
        "hub-ca.pem": invitation.ca_pem.encode(),
        "join-token": invitation.token.encode() + b"\n",
    }
    for file_name, data in files.items():
        write_atomic(directory / file_name, data)
    path = directory / "agent.yaml"
    settings = {
        **before,
        "realm": trust.realm,
        "state_dir": str(directory / "state"),
        "root_file": str(directory / "root.json"),
        "enrolment_address": str(invitation.address),
        "hub_ca_file": str(directory / "hub-ca.pem"),
        "join_token_file": str(directory / "join-token"),
        "facts": _facts(profile, invitation),
    }
    write_atomic(path, _quoted_yaml(settings))
    return path


def settings_found(directory: Path, trust: Trust) -> dict[str, Any]:
    """Settings that are there and stay; raises cli/bad-file, cli/exists before anything is made or written."""
    path = directory / "agent.yaml"
    data = read_file(path) if path.exists() else b""
    found = parse_yaml(data, path) if data.strip() else {}
    if found.get("realm", trust.realm) != trust.realm:
        raise errors.EXISTS(f"{path} belongs to an agent of realm {found['realm']!s:.80}")
    return found


def _facts(profile: ClusterProfile, invitation: Invitation) -> dict[str, Any]:
    return {
        "name": invitation.cluster,
        "environments": list(profile.environments),
        "production": profile.production,
        "labels": dict(profile.labels),
        "region": profile.region,
        "projects": list(profile.projects),
    }


def _quoted_yaml(values: dict[str, Any]) -> bytes:
    """YAML in which every text is quoted: readers differ in what ``y``, ``1e3`` or ``010`` means without quotes."""
    import yaml

    class Quoting(yaml.SafeDumper):
        """Writes each text in double quotes, whatever is in it."""

    Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))
    return yaml.dump(values, Dumper=Quoting, sort_keys=False, width=float("inf")).encode()


def _csv_field(path: Path) -> str:
    """A path as helm reads the value of ``--values``: a list separated by commas."""
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow([str(path)])
    return out.getvalue()
