"""The hub's keys at rest: encrypted, created once, never replaced."""

from __future__ import annotations

import shutil
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cellward.errors import CellwardError
from cellward.identity import keys
from hub.authority.keystore import KeyStore

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def test_v5_keys_are_created_once_and_encrypted(tmp_path: Path) -> None:
    """V5: a second start finds the very same keys; files are 0600 and unreadable without the passphrase."""
    first = KeyStore(tmp_path / "keys", b"secret").open(NOW)
    again = KeyStore(tmp_path / "keys", b"secret").open(NOW)
    assert again.agent_ca.certificate == first.agent_ca.certificate
    assert keys.spki_of(again.timestamp) == keys.spki_of(first.timestamp)
    for path in (tmp_path / "keys").glob("*.key.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert b"ENCRYPTED PRIVATE KEY" in path.read_bytes()


def test_the_five_keys_are_five_keys(tmp_path: Path) -> None:
    """Agents' authority, hubs' authority, timestamp, tree head and attestation share nothing."""
    made = KeyStore(tmp_path, b"secret")
    tmp_path.chmod(0o700)
    found = made.open(NOW)
    all_keys = (found.agent_ca.key, found.hub_ca.key, found.timestamp, found.tree_head, found.attestation)
    assert len({keys.spki_of(key) for key in all_keys}) == 5


def test_a_wrong_passphrase_is_a_clear_error_and_changes_nothing(tmp_path: Path) -> None:
    """V16: the keys stay as they were."""
    KeyStore(tmp_path / "k", b"secret").open(NOW)
    before = {path.name: path.read_bytes() for path in (tmp_path / "k").iterdir()}
    with pytest.raises(CellwardError) as refusal:
        KeyStore(tmp_path / "k", b"wrong").open(NOW)
    assert refusal.value.code == "identity/bad-passphrase"
    assert {path.name: path.read_bytes() for path in (tmp_path / "k").iterdir()} == before


@pytest.mark.parametrize("name", ["agent-ca.key.pem", "agent-ca.crt.pem", "timestamp.key.pem"])
def test_a_missing_key_is_damage_and_never_made_anew(tmp_path: Path, name: str) -> None:
    """A silently replaced authority would strand every agent."""
    KeyStore(tmp_path / "k", b"secret").open(NOW)
    (tmp_path / "k" / name).unlink()
    with pytest.raises(CellwardError) as refusal:
        KeyStore(tmp_path / "k", b"secret").open(NOW)
    assert refusal.value.code == "authority/key-store-damaged"
    assert not (tmp_path / "k" / name).exists()


def test_an_exchanged_key_is_damage(tmp_path: Path) -> None:
    """A key file of another hub under the same passphrase is noticed."""
    KeyStore(tmp_path / "a", b"secret").open(NOW)
    KeyStore(tmp_path / "b", b"secret").open(NOW)
    for name in ("agent-ca.key.pem", "agent-ca.crt.pem"):
        shutil.copy(tmp_path / "b" / name, tmp_path / "a" / name)
    with pytest.raises(CellwardError) as refusal:
        KeyStore(tmp_path / "a", b"secret").open(NOW)
    assert refusal.value.code == "authority/key-store-damaged"


@pytest.mark.parametrize(
    "garbage", [b"", b"garbage", b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"]
)
def test_v16_a_damaged_key_file_is_refused_by_code(tmp_path: Path, garbage: bytes) -> None:
    """V16: a damaged file is told from a bug."""
    KeyStore(tmp_path / "k", b"secret").open(NOW)
    (tmp_path / "k" / "hub-ca.key.pem").write_bytes(garbage)
    with pytest.raises(CellwardError) as refusal:
        KeyStore(tmp_path / "k", b"secret").open(NOW)
    assert refusal.value.code in {"authority/key-store-damaged", "identity/bad-passphrase"}


def test_a_directory_open_to_others_is_refused(tmp_path: Path) -> None:
    """Keys that others can read are not keys."""
    KeyStore(tmp_path / "k", b"secret").open(NOW)
    (tmp_path / "k" / "timestamp.key.pem").chmod(0o640)
    with pytest.raises(CellwardError) as refusal:
        KeyStore(tmp_path / "k", b"secret").open(NOW)
    assert refusal.value.code == "authority/key-store-open"


def test_a_crash_between_key_and_manifest_loses_nothing(tmp_path: Path) -> None:
    """Keys that were written before the manifest are found and kept."""
    first = KeyStore(tmp_path / "k", b"secret").open(NOW)
    (tmp_path / "k" / "keys.json").unlink()
    again = KeyStore(tmp_path / "k", b"secret").open(NOW)
    assert again.hub_ca.certificate == first.hub_ca.certificate
