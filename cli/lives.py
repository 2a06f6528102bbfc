"""Lines of ``cellward check`` about what ends: roots, signed policy, authors' keys, certificates."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cellward.checks import errors as codes
from cellward.checks.lifetimes import Life, life_line
from cellward.checks.model import Result
from cli.home import read_file

if TYPE_CHECKING:
    from pathlib import Path

    from cli.door.keyring import ShownPolicy

#: Whole life of an agent's certificate (V5).
CERTIFICATE_LIFE = timedelta(hours=1)
_FIRST = datetime.min.replace(tzinfo=UTC)


def policy_lives(shown: ShownPolicy, now: datetime) -> Iterator[Result]:
    """Root, targets, keyring, snapshot, and every author's key that is in use."""
    from cellward.policy.client import keyring_of
    from cellward.policy.publisher import ROOT_LIFE, SNAPSHOT_LIFE, TARGETS_LIFE

    parsed = shown.parsed
    for name, expires, life, code in (
        ("root", parsed.root.expires, ROOT_LIFE, codes.ROOT_ENDS),
        ("targets", parsed.targets.expires, TARGETS_LIFE, codes.TARGETS_END),
        ("keyring", parsed.keyring.expires, TARGETS_LIFE, codes.TARGETS_END),
        ("snapshot", parsed.snapshot.expires, SNAPSHOT_LIFE, codes.SNAPSHOT_ENDS),
    ):
        yield life_line("policy", f"policy/{name}", Life(expires - life, expires), now, code)
    for entry in keyring_of(parsed, shown.files).entries:
        if entry.state == "active":
            whose = f"{entry.keyid[:12]} of {entry.owner}"
            life_of = Life(entry.not_before, entry.not_after)
            yield life_line("policy", "policy/author-key", life_of, now, codes.AUTHOR_KEY_ENDS, whose)


def ca_lives(file: Path, now: datetime) -> Iterator[Result]:
    """The CA that this machine knows the hub by."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(read_file(file)) if file.exists() else []
    except ValueError:
        return  # the connection to the hub says more of it
    for certificate in found:
        life = Life(certificate.not_valid_before_utc, certificate.not_valid_after_utc)
        yield life_line("trust", "trust/hub-ca", life, now, codes.HUB_CA_ENDS)


def certificate_life(cluster: str, expires: datetime, now: datetime) -> Result:
    """The certificate of a cluster's agent."""
    # A hub may show any time, also the first there is.
    life = Life(max(expires, _FIRST + CERTIFICATE_LIFE) - CERTIFICATE_LIFE, expires)
    return life_line("clusters", "clusters/certificate-life", life, now, codes.CERTIFICATE_ENDED, cluster)
