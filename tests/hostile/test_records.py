"""What somebody who may commit to the publishers' record tries to have signed; asserted by who is an author afterwards.

He holds no key of the present roles, or one that was rotated out. Whoever publishes is honest, and so is the hub unless
a test says otherwise.
"""

# ruff: noqa: F811 - fixtures of another directory

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Targets

from cellward.documents.dsse import Ed25519Signer
from cellward.documents.keyring import Keyring
from cellward.policy import publisher
from cellward.policy.publisher import SigningKeys
from cellward.policy.record import Record, RoleKeys
from cli.context import instant
from cli.door.keyring import trusted_policy
from cli.home import Home
from tests.fakes.command_line import Cli, client_of
from tests.hostile.test_publishing import PUBLISH, record, served
from tests.integration.api.conftest import _quiet, cli, installed  # noqa: F401 - fixtures


def record_file(run: Cli) -> Path:
    """The publishers' record."""
    return run.home / "policy-record.json"


def own_record(run: Cli) -> Record:
    """The same, read."""
    return Record.from_bytes(record_file(run).read_bytes(), root=(run.home / "root.json").read_bytes())


def with_author(keyring: Keyring, author: Ed25519Signer) -> Keyring:
    """A keyring with the thief as an author who may sign everything."""
    entry = replace(keyring.entries[0], keyid=author.keyid, spki_der=author.public_spki_der, owner="thief")
    return replace(keyring, version=keyring.version + 1, entries=(*keyring.entries, entry))


async def authors(run: Cli) -> set[str]:
    """Owners of active keys, for who reads the hub for the first time or as one who knows."""
    home = Home(run.home)
    found = await asyncio.to_thread(trusted_policy, client_of(run), home, home.trust(), instant())
    return {entry.owner for entry in found.keyring.entries if entry.state == "active"}


@pytest.mark.parametrize("change", ["added", "replaced", "threshold"])
async def test_v1_a_committer_does_not_become_the_keyring_role(installed: Cli, change: str) -> None:
    """V1: the role is what the signed targets delegate to, whatever the record says of it; nothing is signed."""
    thief, found, before = Ed25519Signer.generate(), record(installed), await served(installed)
    keys = found["keyringRole"]["keys"]
    mine = base64.b64encode(thief.public_spki_der).decode()
    found["keyringRole"] = {
        "added": {"keys": [*keys, mine], "threshold": 1},
        "replaced": {"keys": [mine], "threshold": 1},
        "threshold": {"keys": [*keys, mine], "threshold": 2},
    }[change]
    honest = record_file(installed).read_bytes()
    record_file(installed).write_text(json.dumps(found))
    for words in (PUBLISH, ("policy", "refresh"), ("author", "revoke", "ada")):
        assert "[policy/bad-record]" in (await installed(*words, code=2)).stderr
    assert await served(installed) == before
    record_file(installed).write_bytes(honest)
    await installed(*PUBLISH)
    delegations = Metadata[Targets].from_bytes((await served(installed))["targets"] or b"").signed.delegations
    assert delegations is not None
    assert delegations.roles is not None
    assert delegations.roles["keyring"].keyids == list(own_record(installed).keyids("keyring"))
    assert thief.keyid not in delegations.roles["keyring"].keyids


async def rotated_out(run: Cli, directory: Path) -> Ed25519Signer:
    """Replace the policy key by a ceremony; returns the one before, which a thief has."""
    keys, proposal = run.home / "keys", str(directory / "rotation.json")
    stolen = Ed25519Signer.from_pem((keys / "policy.pem").read_bytes(), None)
    await run("keys", "create", "policy-two", "--no-passphrase")
    await run("trust", "upgrade", "--policy", str(keys / "policy-two.pub"), "--out", proposal)
    await run("trust", "sign", proposal)
    await run("trust", "submit", proposal)
    for name in ("policy.pem", "policy.pub"):
        (keys / name).unlink()
    assert stolen.keyid not in own_record(run).root.roles["targets"].keyids
    return stolen


def forged(own: Record, stolen: Ed25519Signer, *, roots: int) -> bytes:
    """A record with newer targets by a stolen key and a keyring by the thief's, both of whose roles he can fill."""
    thief, author = Ed25519Signer.generate(), Ed25519Signer.generate()
    role = RoleKeys((*own.keyring_role.keys, thief.public_spki_der))
    mine = replace(own, keyring=with_author(own.keyring, author), keyring_role=role)
    draft = publisher.draft_again(mine, now=instant()).signed(SigningKeys(policy=(stolen,), keyring=(thief,)))
    old = replace(mine, roots=own.roots[:1], targets=draft.targets, keyring_metadata=draft.keyring)
    value = json.loads(old.to_bytes())
    if roots > 1:
        # With the root of the rotation, which this version writes no such record for.
        value["roots"] = [base64.b64encode(data).decode() for data in own.roots]
        value["seen"]["root"] = json.loads(own.to_bytes())["seen"]["root"]
    return json.dumps(value).encode()


@pytest.mark.parametrize("roots", [1, 2])
@pytest.mark.parametrize("way", ["publish", "ceremony"])
async def test_v1_a_policy_key_that_was_rotated_out_has_nothing_signed(
    installed: Cli, tmp_path: Path, way: str, roots: int
) -> None:
    """V1: newer targets by the stolen key, committed to the record, count for nothing; honest keys sign none of it."""
    stolen = await rotated_out(installed, tmp_path)
    before, honest = await served(installed), record_file(installed).read_bytes()
    record_file(installed).write_bytes(forged(own_record(installed), stolen, roots=roots))
    proposal = str(tmp_path / "renewal.json")
    words = PUBLISH if way == "publish" else ("trust", "upgrade", "--renew", "--out", proposal)
    refused = await installed(*words, code=2 if roots == 2 else 4)
    assert ("[policy/bad-record]" if roots == 2 else "[policy/record-older]") in refused.stderr
    assert not Path(proposal).exists()
    assert await served(installed) == before
    assert await authors(installed) == {"ada"}
    record_file(installed).write_bytes(honest)
    await installed(*PUBLISH)
    assert await authors(installed) == {"ada"}
