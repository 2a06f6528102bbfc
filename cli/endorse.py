"""``cellward clusters endorse``: an author vouches for a cluster, by what the cluster itself says and no hub does.

The agent publishes uid, facts and statement key in a ConfigMap of its namespace. Whoever has the cluster's kubeconfig
reads it from there: the hub is no part of it, so it cannot choose what is signed.
"""

from __future__ import annotations

import base64
import binascii
import shutil
import subprocess
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import errors
from cli.context import command, local, now
from cli.joining import NAMESPACE
from cli.options import DEFAULT_HOME, ClusterArgument, DryRunOption, HomeOption, OutputOption, PassphraseOption
from cli.output import Format, say, show_one, show_table
from cli.views import Shown

if TYPE_CHECKING:
    from cellward.documents.facts import ClusterFacts
    from cli.home import ClusterProfile

#: As the agent publishes it (``agent.platform``).
CONFIG_MAP, SCHEMA = "cellward-agent-identity", "cellward.agent-identity/v1"
_FIELDS = {"schema", "realm", "name", "uid", "facts", "statementKeyid", "statementSpki"}
#: Most bytes taken of what kubectl prints, and seconds it has.
_MAX, _SECONDS = 256 * 1024, 30


class Endorsed(Shown):
    """What was, or would be, vouched for."""

    cluster: str
    uid: str
    environments: list[str]
    production: bool
    region: str
    labels: dict[str, str]
    projects: list[str]
    statement_keyid: str
    endorsement: str = ""
    change: str


@dataclass(frozen=True, slots=True)
class Said:
    """What an agent says of itself in its own cluster, checked for form."""

    realm: str
    facts: ClusterFacts
    statement_keyid: str


@command
def endorse(  # noqa: PLR0913 - options of a command
    name: ClusterArgument,
    kubeconfig: Annotated[Path, typer.Option(help="Kubeconfig of that cluster; KUBECONFIG is not used.")],
    context: Annotated[str, typer.Option(help="Context of the kubeconfig; its current one by default.")] = "",
    namespace: Annotated[str, typer.Option(help="Namespace of the agent.")] = NAMESPACE,
    valid_days: Annotated[int, typer.Option(min=1, max=3650, help="How long the endorsement counts.")] = 365,
    dry_run: DryRunOption = False,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Sign uid, facts and statement key as the cluster itself says them; its receipts then count as evidence."""
    from cellward.documents.dsse import dump_envelope
    from cellward.documents.model import ClusterEndorsement
    from cli.door.documents import upload
    from cli.keys import load_key
    from cli.signing import sign_endorsement

    place = local(home)
    trust = place.home.trust()
    said = parse_identity(read_identity(kubeconfig, context, namespace))
    _check(name, said, trust.realm, trust.clusters.get(name))
    shown = _shown(said, "would-endorse")
    if not dry_run:
        issued = now()
        document = ClusterEndorsement(
            realm=trust.realm,
            name=name,
            uid=said.facts.uid,
            facts=said.facts,
            statement_keyid=said.statement_keyid,
            issued_at=issued,
            not_after=issued + timedelta(days=valid_days),
        )
        client = place.trusted_client(trust)
        signed = sign_endorsement(document, load_key(place.home, "author", passphrase_file))
        place.home.write(f"endorsement-{name}.json", dump_envelope(signed), 0o644)
        upload(client, [signed])
        shown = shown.model_copy(update={"endorsement": signed.digest, "change": "endorsed"})
    show_one(shown, output, lambda: _table(shown), f"cluster/{name}")
    if dry_run:
        say("nothing was signed")


def read_identity(kubeconfig: Path, context: str, namespace: str) -> bytes:
    """What kubectl reads of the agent's ConfigMap; raises cli/no-kubectl, cli/cluster-unreachable."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise errors.NO_KUBECTL("kubectl is not on the PATH")
    if not kubeconfig.is_file():
        raise errors.BAD_FILE(f"{kubeconfig} is not a file", hint="Name the kubeconfig of the cluster.")
    words = [kubectl, "--kubeconfig", str(kubeconfig), *(["--context", context] if context else [])]
    words += ["get", "configmap", CONFIG_MAP, "--namespace", namespace]
    words += ["--output", 'go-template={{index .data "identity.json"}}']
    try:
        done = subprocess.run(words, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise errors.CLUSTER_UNREACHABLE(f"kubectl got no answer within {_SECONDS} s") from error
    if done.returncode != 0:
        told = done.stderr.decode(errors="replace").strip()[-300:]
        raise errors.CLUSTER_UNREACHABLE(f"kubectl: {told or 'failed without a word'}")
    if len(done.stdout) > _MAX:
        raise errors.BAD_IDENTITY(f"ConfigMap {CONFIG_MAP} is larger than {_MAX} bytes")
    return done.stdout


def parse_identity(data: bytes) -> Said:
    """Read what an agent published, strictly; raises cli/bad-identity. Pure."""
    from cellward.documents import canonical
    from cellward.documents.facts import ClusterFacts
    from cellward.errors import CellwardError
    from cellward.identity.keys import load_signing_spki, spki_digest

    try:
        body = canonical.parse(data)
        if not isinstance(body, dict) or body.keys() != _FIELDS or body["schema"] != SCHEMA:
            raise errors.BAD_IDENTITY(f"ConfigMap {CONFIG_MAP} is not of schema {SCHEMA}")
        facts = ClusterFacts.from_json(body["facts"])
        spki = base64.b64decode(str(body["statementSpki"]), validate=True)
        load_signing_spki(spki)
    except (CellwardError, binascii.Error, ValueError) as error:
        if isinstance(error, CellwardError) and error.code == errors.BAD_IDENTITY.code:
            raise
        raise errors.BAD_IDENTITY(f"ConfigMap {CONFIG_MAP} cannot be read: {error}") from error
    if (body["name"], body["uid"]) != (facts.name, facts.uid) or body["statementKeyid"] != spki_digest(spki):
        raise errors.BAD_IDENTITY(f"ConfigMap {CONFIG_MAP} contradicts itself")
    return Said(str(body["realm"]), facts, spki_digest(spki))


def _check(name: str, said: Said, realm: str, profile: ClusterProfile | None) -> None:
    """Refuse another realm or cluster, and facts other than those the cluster was invited with."""
    facts = said.facts
    if said.realm != realm:
        raise errors.BAD_IDENTITY(f"the agent there belongs to realm {said.realm}, trust.yaml names {realm}")
    if facts.name != name:
        raise errors.BAD_IDENTITY(f"the agent there is {facts.name}, not {name}: is it the right kubeconfig?")
    if profile is None:
        say(f"trust.yaml does not know {name}; compare the facts yourself")
        return
    found = (facts.environments, facts.production, facts.region, dict(facts.labels), facts.projects)
    meant = (profile.environments, profile.production, profile.region, dict(profile.labels), profile.projects)
    if found != meant:
        raise errors.BAD_IDENTITY(
            f"{name} says {_told(found)}, it was invited as {_told(meant)}",
            hint="Find out who changed the chart's values; invite it again if that was intended.",
        )


def _told(facts: tuple[object, ...]) -> str:
    names = ("environments", "production", "region", "labels", "projects")
    return ", ".join(f"{name}={value}" for name, value in zip(names, facts, strict=True))


def _shown(said: Said, change: str) -> Endorsed:
    facts = said.facts
    return Endorsed(
        cluster=facts.name,
        uid=facts.uid,
        environments=list(facts.environments),
        production=facts.production,
        region=facts.region,
        labels=dict(facts.labels),
        projects=list(facts.projects),
        statement_keyid=said.statement_keyid,
        change=change,
    )


def _table(item: Endorsed) -> None:
    show_table(
        ("cluster", "uid", "environments", "production", "region", "labels", "projects", "statement key", "change"),
        [
            [
                item.cluster,
                item.uid,
                ",".join(item.environments),
                "yes" if item.production else "no",
                item.region or "-",
                ",".join(f"{key}={value}" for key, value in item.labels.items()) or "-",
                ",".join(item.projects),
                item.statement_keyid,
                item.change,
            ]
        ],
    )
