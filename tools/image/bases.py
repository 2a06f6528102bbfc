"""Digests of the Dockerfile's base images, asked of their registries; without one nothing is written.

Specification: OCI distribution 1.1, with the bearer tokens that public registries give to anybody.
"""

from __future__ import annotations

import hashlib
import json
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tools.image.errors import NO_REGISTRY

_ARGUMENT: Final = re.compile(r"^(?P<start>ARG [A-Z]+=)(?P<name>[^\s@]+)(?:@sha256:[0-9a-f]{64})?$", re.MULTILINE)
_CHALLENGE: Final = re.compile(r'(\w+)="([^"]*)"')
_KINDS: Final = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in ("oci.image.index.v1", "docker.distribution.manifest.list.v2", "oci.image.manifest.v1",
                 "docker.distribution.manifest.v2")
)  # fmt: skip
_SECONDS: Final = 20
#: No manifest is larger; bytes.
_LARGEST: Final = 4 * 1024 * 1024


def pin_bases(dockerfile: Path) -> list[str]:
    """Write the digest of each base behind its tag and return the references; all of them, or nothing is written.

    Raises:
        CellwardError: image/no-registry.
    """
    text = dockerfile.read_text()
    pinned = {one["name"]: f"{one['name']}@{resolve(one['name'])}" for one in _ARGUMENT.finditer(text)}
    dockerfile.write_text(_ARGUMENT.sub(lambda one: one["start"] + pinned[one["name"]], text))
    return list(pinned.values())


def resolve(reference: str) -> str:
    """Return the digest of ``host/name:tag``: of what the registry serves, not what it says.

    Raises:
        CellwardError: image/no-registry.
    """
    host, _, rest = reference.partition("/")
    name, _, tag = rest.rpartition(":")
    # Docker's short name is not where its registry answers; one on this machine has no certificate.
    host = {"docker.io": "registry-1.docker.io"}.get(host, host)
    scheme = "http" if host.partition(":")[0] == "127.0.0.1" else "https"
    url = f"{scheme}://{host}/v2/{quote(name)}/manifests/{quote(tag)}"
    try:
        try:
            body = _get(url, {"Accept": _KINDS})
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
            challenge = error.headers.get("WWW-Authenticate", "")
            body = _get(url, {"Accept": _KINDS, "Authorization": f"Bearer {_token(challenge)}"})
    except (OSError, ValueError, KeyError) as error:
        raise NO_REGISTRY(f"{reference}: {host} does not answer: {error}") from error
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _token(challenge: str) -> str:
    said = dict(_CHALLENGE.findall(challenge))
    query = "&".join(f"{key}={quote(said[key])}" for key in ("service", "scope") if key in said)
    answer = json.loads(_get(f"{said['realm']}?{query}", {}))
    return str(answer.get("token") or answer["access_token"])


def _get(url: str, headers: dict[str, str]) -> bytes:
    if not url.startswith(("https://", "http://127.0.0.1")):
        raise ValueError(f"{url} is not asked: neither TLS nor this machine")
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the scheme was checked
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310 - as above
            body = answer.read(_LARGEST + 1)
    except urllib.error.HTTPError as error:
        # It holds the connection.
        error.close()
        raise
    if len(body) > _LARGEST:
        raise ValueError(f"more than {_LARGEST} bytes")
    return bytes(body)
