"""The hub's keys at rest: encrypted, created once, never replaced."""

from __future__ import annotations

import errno
import os
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


def test_rights_that_a_mount_gave_to_a_group_are_taken_back(tmp_path: Path) -> None:
    """V5: a volume mounted with an fsGroup makes keys 0660; the hub starts, with the same keys, and they are 0600."""
    store = KeyStore(tmp_path / "k", b"secret")
    first = store.open(NOW)
    (tmp_path / "k").chmod(0o2770)
    for path in (tmp_path / "k").iterdir():
        path.chmod(0o660)
    again = KeyStore(tmp_path / "k", b"secret").open(NOW)
    assert again.agent_ca.certificate == first.agent_ca.certificate
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) & 0o777 == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "k").glob("*.pem")} == {0o600}


def no_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a read-only mount answers, also to root."""
    before = os.open

    def refusing(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return before(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refusing)


def secret(directory: Path, mode: int = 0o440) -> None:
    """Make a directory of keys what a mounted Secret is."""
    (directory / ".lock").unlink()
    for path in directory.iterdir():
        path.chmod(mode)
    directory.chmod(0o3777)


def test_keys_of_a_mounted_secret_are_used_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """V5: read-only, 0440, in a directory open to all: the kubelet alone writes there; nothing is changed."""
    first = KeyStore(tmp_path / "k", b"secret").open(NOW)
    secret(tmp_path / "k")
    before = {path.name: path.read_bytes() for path in (tmp_path / "k").iterdir()}
    no_writes(monkeypatch)
    again = KeyStore(tmp_path / "k", b"secret").open(NOW)
    assert keys.spki_of(again.tree_head) == keys.spki_of(first.tree_head)
    assert {path.name: path.read_bytes() for path in (tmp_path / "k").iterdir()} == before
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "k").iterdir()} == {0o440}


@pytest.mark.parametrize("name", ["keys.json", "timestamp.key.pem"])
def test_an_incomplete_secret_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A hub that cannot write its keys does not go on with keys that nobody has tomorrow."""
    KeyStore(tmp_path / "k", b"secret").open(NOW)
    secret(tmp_path / "k")
    (tmp_path / "k" / name).unlink()
    no_writes(monkeypatch)
    with pytest.raises(CellwardError) as refusal:
        KeyStore(tmp_path / "k", b"secret").open(NOW)
    assert refusal.value.code == "authority/key-store-damaged"


def test_a_secret_that_all_may_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0644, a Secret's default, gives the keys to every account of the pod."""
    KeyStore(tmp_path / "k", b"secret").open(NOW)
    secret(tmp_path / "k", 0o644)
    no_writes(monkeypatch)
    with pytest.raises(CellwardError) as refusal:
        KeyStore(tmp_path / "k", b"secret").open(NOW)
    assert refusal.value.code == "authority/key-store-open"


def test_a_crash_between_key_and_manifest_loses_nothing(tmp_path: Path) -> None:
    """Keys that were written before the manifest are found and kept."""
    first = KeyStore(tmp_path / "k", b"secret").open(NOW)
    (tmp_path / "k" / "keys.json").unlink()
    again = KeyStore(tmp_path / "k", b"secret").open(NOW)
    assert again.hub_ca.certificate == first.hub_ca.certificate
