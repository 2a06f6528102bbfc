"""The local directory: profile, trust.yaml, keys, and what was signed last. Nothing in it came from the hub unchecked.

Layout: ``config.yaml``, ``token``, ``hub-ca.pem``; ``trust.yaml``, ``root.json``, ``keys/``; ``policy-record.json``
(policy published last), which belongs into security's repository; ``state/`` (what was signed, floors, numbers).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellward.runtime.files import write_atomic
from cli import errors

if TYPE_CHECKING:
    from cli.door.client import Profile
    from cli.state.store import Store

#: Keys of an installation, by what they sign.
KEY_NAMES = ("root", "policy", "keyring", "publisher", "author")
_MAX_FILE = 4 * 1024**2
_MAX_SHOWN = 160


@dataclass(frozen=True, slots=True)
class ClusterProfile:
    """Facts a cluster is installed with; kept so that the same line can be printed again."""

    environments: tuple[str, ...]
    production: bool
    region: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    projects: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True)
class Trust:
    """``trust.yaml``: what a join line needs beyond what the hub adds, and what an auditor compares with."""

    realm: str
    root_file: Path
    root_digest: str
    owner: str
    evaluation: bool
    tree_head_spki: bytes
    environments: tuple[str, ...] = ()
    clusters: Mapping[str, ClusterProfile] = field(default_factory=dict)
    chart: str = ""
    chart_version: str = ""
    image: str = ""


def default_home() -> Path:
    """``$CELLWARD_HOME``, or ``~/.config/cellward``."""
    given = os.environ.get("CELLWARD_HOME", "")
    return Path(given) if given else Path.home() / ".config" / "cellward"


class Home:
    """One local directory; nothing is read or made before it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def create(self) -> None:
        """Make the directories, private to the user."""
        for directory in (self.path, self.path / "keys"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def file(self, name: str) -> Path:
        """Path of a file in it."""
        return self.path / name

    def write(self, name: str, data: bytes, mode: int = 0o600) -> Path:
        """Write a file, all or nothing."""
        path = self.path / name
        write_atomic(path, data, mode)
        return path

    def profile(self) -> Profile:
        """The hub logged in to, with the environment (CELLWARD_SERVER, CELLWARD_TOKEN) on top."""
        from cli.door.client import Profile, check_token, parse_server

        config = self.read_yaml("config.yaml") or {}
        named = os.environ.get("CELLWARD_SERVER", "")
        server = named or str(config.get("server", ""))
        given, kept = os.environ.get("CELLWARD_TOKEN"), self._read("token")
        if not server or not (given or kept):
            raise errors.NOT_LOGGED_IN(f"{self.path} has no server and token")
        parse_server(server, "CELLWARD_SERVER" if named else str(self.path / "config.yaml"))
        if given:
            token = check_token(os.fsencode(given), "CELLWARD_TOKEN", errors.BAD_OPTION)
        else:
            token = check_token(kept or b"", self.path / "token", errors.BAD_FILE)
        return Profile(server, self.path / "hub-ca.pem", token)

    def trust(self) -> Trust:
        """Read trust.yaml; raises cli/not-initialised, cli/bad-file."""
        values = self.read_yaml("trust.yaml")
        if values is None:
            raise errors.NOT_INITIALISED(f"{self.path / 'trust.yaml'} does not exist")
        return parse_trust(values, self.path)

    def state(self, trust: Trust) -> Store:
        """The local state: what was signed here, numbers, floors."""
        from cli.state.store import Store

        return Store(self.path, trust.realm)

    def write_trust(self, trust: Trust) -> None:
        """Write trust.yaml."""
        import yaml

        text = yaml.safe_dump(dump_trust(trust, self.path), sort_keys=False)
        self.write("trust.yaml", (_TRUST_COMMENT + text).encode())

    def read_yaml(self, name: str) -> dict[str, Any] | None:
        """Read a YAML mapping, None when there is none; raises cli/bad-file."""
        data = self._read(name)
        return None if data is None else parse_yaml(data, self.path / name)

    def _read(self, name: str) -> bytes | None:
        return read_file(self.path / name) if (self.path / name).exists() else None


def shown(path: object) -> str:
    """Return a path for a message, cut where nobody would read on."""
    text = str(path)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def read_file(path: Path, limit: int = _MAX_FILE) -> bytes:
    """Read a file of bounded size; raises cli/bad-file."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise errors.BAD_FILE(f"{shown(path)} cannot be read: {error.strerror}", file=path) from error
    except ValueError as error:
        raise errors.BAD_FILE(f"{shown(path)} is not a name of a file", file=path) from error
    if len(data) > limit:
        raise errors.BAD_FILE(f"{path} is larger than {limit} bytes", file=path)
    return data


def parse_yaml(data: bytes, path: Path, *, quoted: bool = False) -> dict[str, Any]:
    """Parse a YAML mapping, as :func:`cellward.documents.strict_yaml.strict_mapping` does; raises cli/bad-file."""
    from cellward.documents.strict_yaml import YamlError, strict_mapping

    try:
        return strict_mapping(data, quoted=quoted)
    except YamlError as error:
        raise errors.BAD_FILE(f"{path}{error.place}: {error.what}", file=path) from error


_TRUST_COMMENT = "# What this installation trusts. Keep it and root.json where the hub cannot change them.\n"
_FIELDS = {
    "apiVersion", "kind", "realm", "root", "rootDigest", "owner", "evaluation", "treeHeadKey", "environments",
    "clusters", "chart", "chartVersion", "image",
}  # fmt: skip
_CLUSTER_FIELDS = {"environments", "production", "region", "labels", "projects"}


def parse_trust(values: dict[str, Any], base: Path) -> Trust:
    """Check the values of trust.yaml; raises cli/bad-file."""
    import base64

    unknown = sorted(set(values) - _FIELDS)
    if unknown:
        raise errors.BAD_FILE(f"{base / 'trust.yaml'} has fields this version does not know: {', '.join(unknown)}")
    try:
        return Trust(
            realm=_text(values["realm"]),
            root_file=base / _text(values["root"]),
            root_digest=_text(values["rootDigest"]),
            owner=_text(values["owner"]),
            evaluation=values.get("evaluation") is True,
            tree_head_spki=base64.b64decode(_text(values["treeHeadKey"]), validate=True),
            environments=_names(values.get("environments", [])),
            clusters={_text(name): _profile(facts) for name, facts in dict(values.get("clusters") or {}).items()},
            chart=_text(values.get("chart", Trust.__dataclass_fields__["chart"].default)),
            chart_version=_text(values.get("chartVersion", "")),
            image=_text(values.get("image", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise errors.BAD_FILE(f"{base / 'trust.yaml'} is malformed: {error!r}") from error


def dump_trust(trust: Trust, base: Path) -> dict[str, Any]:
    """Return the values of trust.yaml."""
    import base64

    root = trust.root_file.relative_to(base) if trust.root_file.is_relative_to(base) else trust.root_file
    return {
        "apiVersion": "cellward.dev/v1alpha1",
        "kind": "Trust",
        "realm": trust.realm,
        "root": str(root),
        "rootDigest": trust.root_digest,
        "owner": trust.owner,
        "evaluation": trust.evaluation,
        "treeHeadKey": base64.b64encode(trust.tree_head_spki).decode(),
        "environments": list(trust.environments),
        "clusters": {
            name: {
                "environments": list(facts.environments),
                "production": facts.production,
                "region": facts.region,
                "labels": dict(facts.labels),
                "projects": list(facts.projects),
            }
            for name, facts in trust.clusters.items()
        },
        "chart": trust.chart,
        "chartVersion": trust.chart_version,
        "image": trust.image,
    }


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return tuple(_text(name) for name in value)


def _profile(value: Mapping[str, Any]) -> ClusterProfile:
    if set(value) - _CLUSTER_FIELDS or not isinstance(value["production"], bool):
        raise ValueError("a cluster's profile has unknown fields, or no production: true|false")
    return ClusterProfile(
        environments=_names(value["environments"]),
        production=value["production"],
        region=_text(value.get("region", "")),
        labels={_text(key): _text(label) for key, label in dict(value.get("labels") or {}).items()},
        projects=_names(value.get("projects", ["*"])),
    )
