"""A real agent process is taken through a rotation of the root to m of n; nobody installs or restarts it for that."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tuf.api.metadata import Root

from cellward.documents.dsse import Ed25519Signer
from cellward.policy import publisher, trust
from cellward.policy.model import BindingSet
from cellward.policy.publisher import MetadataFile, SigningKeys
from cellward.policy.record import Record, RoleKeys
from cellward.policy.signing import sign_metadata
from cli.home import Home
from cli.keys import load_key
from tests.fakes.installation import CLUSTER, ROOT, Installation
from tools.demo.scenes.stolen_hub import Loot

pytestmark = [pytest.mark.real, pytest.mark.timeout(480), pytest.mark.xdist_group("faults")]

NAMES = ("root-ada", "root-bob", "root-carol")


def versions(installation: Installation) -> tuple[int, int]:
    """Root and snapshot that the agent says it decides by."""
    policy = installation.stage.api.get(f"/clusters/{CLUSTER}")["policy"]
    return policy["root"], policy["snapshot"]


def record_of(installation: Installation) -> Record:
    """The publishers' record."""
    home = installation.stage.home
    return Record.from_bytes((home / "policy-record.json").read_bytes(), root=(home / "root.json").read_bytes())


def in_force(installation: Installation) -> None:
    """Wait until the agent decides by what was published last."""
    record = record_of(installation)
    wanted = (record.root.version, record.snapshot)
    installation.until(f"root and snapshot {wanted} in force", lambda: versions(installation) == wanted, 60)


def rotate_to_two_of_three(installation: Installation) -> None:
    """What the guide says, with all keys in one place."""
    cli, home = installation.stage.cli, installation.stage.home
    words = []
    for name in NAMES:
        cli.run("keys", "create", name, "--no-passphrase")
        words += ["--root", str(home / "keys" / f"{name}.pub")]
    file = installation.directory / "upgrade.json"
    cli.run("trust", "upgrade", "--out", str(file), *words, "--root-threshold", "2")
    cli.run("trust", "sign", str(file))
    cli.run("trust", "submit", str(file))


def evil_set(record: Record, old: Ed25519Signer) -> list[MetadataFile]:
    """A whole set by a thief's keys, under the root that would follow the newest, which the old root key alone signs.

    Where the old root key still counted it would be accepted: the same verifies under a root that follows the first.
    """
    thief, now = Ed25519Signer.generate(), datetime.now(UTC)
    mine = RoleKeys((thief.public_spki_der,))

    def following(roots: Sequence[bytes]) -> bytes:
        data = publisher.next_root(roots, changes={"root": mine, "targets": mine, "snapshot": mine}, now=now)
        return sign_metadata(trust.parse(Root, data), (old, thief))

    first = (record.roots[0], following(record.roots[:1]))
    mines = replace(record, roots=first, keyring_role=mine, targets=None, keyring_metadata=None)
    keys = SigningKeys(policy=(thief,), keyring=(thief,), publisher=(thief,))
    made = publisher.publish(mines, bundles=[], bindings=BindingSet(record.realm, ()), keys=keys, now=now)
    return [
        MetadataFile(Root.type, record.root.version + 1, following(record.roots)),
        *(file for file in made.metadata if file.role != Root.type),
    ]


@contextmanager
def planted(database: sqlite3.Connection, files: Sequence[MetadataFile]) -> Iterator[None]:
    """Serve metadata that the hub never verified."""
    keys = [(file.role, file.version) for file in files]
    rows = [(file.role, file.version, file.data) for file in files]
    database.executemany("INSERT INTO tuf_metadata (role, version, data) VALUES (?, ?, ?)", rows)
    database.commit()
    try:
        yield
    finally:
        database.executemany("DELETE FROM tuf_metadata WHERE role=? AND version=?", keys)
        database.commit()


def test_a_running_agent_follows_the_root_to_two_of_three(installation: Installation) -> None:
    """Policy and cells still arrive; what the root key of before signs alone is refused, the good set decides on."""
    old = load_key(Home(installation.stage.home), "root", None)
    agent = installation.agent.pid
    rotate_to_two_of_three(installation)
    in_force(installation)
    record = record_of(installation)
    assert (record.root.roles["root"].threshold, len(record.root.roles["root"].keyids)) == (2, 3)
    assert old.keyid not in record.root.roles["root"].keyids

    loot = Loot(installation.stage.hub_data, (installation.directory / "hub-passphrase").read_bytes().strip())
    files = evil_set(record, old)
    snapshot = next(file for file in files if file.role == "snapshot")
    with loot.database() as database:
        (newest,) = database.execute("SELECT max(version) FROM tuf_metadata WHERE role='timestamp'").fetchone()
        life = timedelta(hours=2)
        data = publisher.sign_timestamp(newest + 1, snapshot, loot.timestamp(), now=datetime.now(UTC), life=life)
        with planted(database, [*files, MetadataFile("timestamp", newest + 1, data)]):
            refused = installation.until("the agent to refuse", lambda: _refusal(installation), 60)
    assert refused["code"] == "policy/unverified"
    assert "root" in refused["message"]
    assert versions(installation) == (record.root.version, record.snapshot)

    installation.stage.cli.run("policy", "publish", str(ROOT / "policies"))
    in_force(installation)
    installation.wait_ready(installation.deploy())
    assert installation.agent.pid == agent


def _refusal(installation: Installation) -> dict[str, str] | None:
    found = installation.condition("policy-set")
    return found if found and not found["ok"] else None
