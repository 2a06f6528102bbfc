"""The stored identity: checked before it replaces anything, private, and stable across a crash (V3, V5, V6)."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from agent.audit.statement import StatementKey
from agent.link.identity import IdentityStore, accept_identity
from cellward.errors import CellwardError
from cellward.identity import keys
from cellward.identity.names import SpiffeId, trust_domain_of
from cellward.identity.x509 import Issuer, issue_leaf, make_ca, to_pem
from tests.fakes.clock import ManualClock

DOMAIN = trust_domain_of("sha256:" + "ab" * 32)
CLOCK = ManualClock()
NOW = CLOCK.now()


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    """An authority for agents."""
    return make_ca("agents", keys.new_tls_key(), NOW)


def test_a_fresh_identity_is_stored_private_and_read_back(issuer: Issuer, tmp_path: Path) -> None:
    """What was issued for our key is accepted, mode 0600, and the pending key is gone."""
    store = IdentityStore(tmp_path)
    key = store.pending_key()
    leaf = issue_leaf(
        issuer, key.public_key(), kind="agent", uri=SpiffeId(DOMAIN, "agent", "eu-1"), now=NOW, generation=3
    )
    chain = (to_pem(leaf) + issuer.pem).decode()
    identity = accept_identity(key, chain, issuer.pem.decode(), trust_domain=DOMAIN, link_address="h:1", now=NOW)
    store.save(identity)
    assert (identity.name, identity.generation, identity.lifetime) == ("eu-1", 3, 3600)
    assert identity.spiffe_id == f"spiffe://{DOMAIN}/agent/eu-1"
    assert IdentityStore(tmp_path).load() == identity
    assert [path.name for path in tmp_path.iterdir()] == ["identity.json"]
    assert (tmp_path / "identity.json").stat().st_mode & 0o777 == 0o600


def test_v6_the_pending_key_survives_a_crash(tmp_path: Path) -> None:
    """The same key may ask again: it is on disk before the request, and a new process finds it."""
    first = IdentityStore(tmp_path).pending_key()
    again = IdentityStore(tmp_path).pending_key()
    assert keys.spki_of(first) == keys.spki_of(again)
    assert (tmp_path / "pending-tls-key.pem").stat().st_mode & 0o777 == 0o600


def test_keys_that_a_mount_gave_to_a_group_are_private_again(issuer: Issuer, tmp_path: Path) -> None:
    """V5: mounting the volume with an fsGroup makes 0660; the agent starts with the same keys, and they are 0600."""
    pending = IdentityStore(tmp_path / "asking").pending_key()
    statement = StatementKey.load_or_create(tmp_path)
    key = keys.new_tls_key()
    uri = SpiffeId(DOMAIN, "agent", "eu-1")
    leaf = issue_leaf(issuer, key.public_key(), kind="agent", uri=uri, now=NOW, generation=1)
    chain = (to_pem(leaf) + issuer.pem).decode()
    identity = accept_identity(key, chain, issuer.pem.decode(), trust_domain=DOMAIN, link_address="h:1", now=NOW)
    IdentityStore(tmp_path).save(identity)
    files = ["asking/pending-tls-key.pem", "statement-key.pem", "identity.json"]
    for name in files:
        (tmp_path / name).chmod(0o660)
    assert IdentityStore(tmp_path).load() == identity
    assert keys.spki_of(IdentityStore(tmp_path / "asking").pending_key()) == keys.spki_of(pending)
    assert StatementKey.load_or_create(tmp_path).keyid == statement.keyid
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in files} == {0o600}


@pytest.mark.parametrize("wrong", ["key", "domain", "kind", "name", "expired", "issuer"])
def test_v3_a_certificate_that_is_not_ours_is_refused(issuer: Issuer, wrong: str) -> None:
    """Another key, trust domain, kind or name, expired, or not by the issuer beside it."""
    key = keys.new_tls_key()
    public = keys.new_tls_key().public_key() if wrong == "key" else key.public_key()
    kind = "hub" if wrong == "kind" else "agent"
    domain = "cd" * 16 + ".cellward" if wrong == "domain" else DOMAIN
    at = NOW - timedelta(hours=3) if wrong == "expired" else NOW
    leaf = issue_leaf(issuer, public, kind=kind, uri=SpiffeId(domain, kind, "eu-1"), now=at)  # type: ignore[arg-type]
    beside = make_ca("agents", keys.new_tls_key(), NOW) if wrong == "issuer" else issuer
    name = "us-1" if wrong == "name" else "eu-1"
    with pytest.raises(CellwardError) as caught:
        accept_identity(
            key,
            (to_pem(leaf) + beside.pem).decode(),
            issuer.pem.decode(),
            trust_domain=DOMAIN,
            link_address="h:1",
            now=NOW,
            name=name,
        )
    assert caught.value.code == "link/bad-identity"


@pytest.mark.parametrize("content", [b"", b"{}", b"garbage", b'{"key_pem": 1}'])
def test_v16_a_damaged_identity_is_an_error_with_a_hint_not_a_crash(tmp_path: Path, content: bytes) -> None:
    """The file is left as it is, and the error says what to do."""
    (tmp_path / "identity.json").write_bytes(content)
    with pytest.raises(CellwardError) as caught:
        IdentityStore(tmp_path).load()
    assert caught.value.code == "link/identity-unreadable"
    assert caught.value.hint
    assert (tmp_path / "identity.json").read_bytes() == content


def test_no_identity_is_none(tmp_path: Path) -> None:
    """A new agent has none, which is not an error."""
    assert IdentityStore(tmp_path).load() is None
