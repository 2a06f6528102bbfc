"""What somebody who may commit to the publishers' record tries to have signed; asserted by who is an author afterwards.

He holds no key of the present roles, or one that was rotated out. Whoever publishes is honest, and so is the hub unless
a test says otherwise.
"""

# ruff: noqa: F811 - fixtures of another directory

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Targets
from typer.testing import CliRunner, Result

from cellward.documents.dsse import Ed25519Signer
from cellward.documents.keyring import Keyring
from cellward.policy import publisher
from cellward.policy.publisher import SigningKeys
from cellward.policy.record import Record, RoleKeys
from cli.commands import app
from cli.context import instant
from cli.door.keyring import trusted_policy
from cli.errors import UNREACHABLE
from cli.home import Home
from cli.records import Base
from tests.fakes.command_line import Cli, client_of
from tests.hostile.test_publishing import PUBLISH, be_honest, lie, record, served
from tests.integration.api.conftest import _quiet, cli, installed, made  # noqa: F401 - fixtures


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


def set_back(run: Cli, author: Ed25519Signer) -> bytes:
    """A record as before the first publication, in which no signature covers anything, with a thief as author."""
    own = own_record(run)
    keyring = with_author(own.keyring, author)
    return replace(own, keyring=keyring, targets=None, keyring_metadata=None, snapshot=0).to_bytes()


async def asked(run: Cli, monkeypatch: pytest.MonkeyPatch, answer: str, *words: str) -> Result:
    """Run a command in a terminal, in which somebody answers."""
    with monkeypatch.context() as patch:
        patch.setattr("typer.testing._NamedTextIOWrapper.isatty", lambda *_: True)
        return await asyncio.to_thread(CliRunner().invoke, app, [*words, "--home", str(run.home)], input=f"{answer}\n")


@pytest.mark.parametrize("memory", [True, False], ids=["memory", "no-memory"])
@pytest.mark.parametrize("hub", ["honest", "silent"])
async def test_v1_a_record_set_back_before_the_first_publication_gets_nothing_signed(
    installed: Cli, tmp_path: Path, hub: str, memory: bool
) -> None:
    """V1: a hub that shows nothing, and a machine without memory, are no reason to begin the realm anew."""
    before = await served(installed)
    record_file(installed).write_bytes(evil := set_back(installed, Ed25519Signer.generate()))
    if not memory:
        shutil.rmtree(installed.home / "state")
    if hub == "silent":
        lie(installed, dict.fromkeys(("targets", "keyring", "snapshot", "timestamp")))
    for words in (PUBLISH, (*PUBLISH, "--first-publication")):
        known = memory or hub == "honest"
        refused = await installed(*words, code=4 if known or words == PUBLISH else 2)
        wanted = "policy/record-older" if known else "policy/no-floors" if words == PUBLISH else "no terminal"
        assert wanted in refused.stderr
    assert record_file(installed).read_bytes() == evil
    be_honest(installed)
    assert await served(installed) == before
    assert await authors(installed) == {"ada"}


async def test_v1_a_machine_without_memory_signs_no_policy(installed: Cli, tmp_path: Path) -> None:
    """V1: not even from the newest record, which it cannot know to be that; it learns first, and a person compares."""
    before, state = await served(installed), installed.home / "state"
    proposal = str(tmp_path / "p.json")
    await installed("policy", "minimum", "shop", "--propose", proposal)
    await installed("trust", "sign", proposal)
    shutil.rmtree(state)
    signing = (
        PUBLISH,
        ("author", "revoke", "ada"),
        ("lock", "cluster/eu-9", "--reason", "stolen", "--signed"),
        ("policy", "minimum", "cart"),
        ("trust", "submit", proposal),
    )
    for words in signing:
        for key in ("policy", "keyring", "publisher"):
            (installed.home / "keys" / f"{key}.pem").rename(tmp_path / key)
        assert "[policy/no-floors]" in (await installed(*words, code=4)).stderr
        for key in ("policy", "keyring", "publisher"):
            (tmp_path / key).rename(installed.home / "keys" / f"{key}.pem")
    assert await served(installed) == before
    learnt = json.loads((await installed("trust", "learn", "-o", "json")).stdout)
    mine = own_record(installed).floors().roles
    assert {one["role"]: (one["version"], one["digest"]) for one in learnt}.items() >= {
        (role, (floor.version, floor.digest)) for role, floor in mine.items()
    }
    await installed("trust", "submit", proposal)
    await installed(*PUBLISH)


async def test_v1_a_root_that_a_hub_shows_is_no_memory(installed: Cli, tmp_path: Path) -> None:
    """V1: `trust follow` writes the record without signing anything, so that machine knows no more than before."""
    old, before, proposal = record_file(installed).read_bytes(), await served(installed), str(tmp_path / "p.json")
    await installed("trust", "upgrade", "--renew", "--out", proposal)
    await installed("trust", "sign", proposal)
    await installed("trust", "submit", proposal)
    record_file(installed).write_bytes(old)
    shutil.rmtree(installed.home / "state")
    lie(installed, before)
    await installed("trust", "follow")
    assert own_record(installed).root.version == 2
    assert "[policy/no-floors]" in (await installed(*PUBLISH, code=4)).stderr


async def test_v1_a_schedule_without_memory_refreshes_what_record_and_hub_agree_on(installed: Cli) -> None:
    """V1: a set before the newest goes under no new snapshot because a record was reverted, or a hub shows less."""
    old, before = record_file(installed).read_bytes(), await served(installed)
    await installed("author", "revoke", "ada", "--compromised")
    newest, state = record_file(installed).read_bytes(), installed.home / "state"
    nothing = dict.fromkeys(("targets", "keyring", "snapshot", "timestamp"))
    for kept, shown, code in (
        (newest, None, ""), (newest, before, "policy/no-floors"), (newest, nothing, "policy/no-floors"),
        (old, None, "policy/record-older"), (old, nothing, "policy/no-floors"),
    ):  # fmt: skip
        record_file(installed).write_bytes(kept)
        shutil.rmtree(state)
        be_honest(installed)
        had = await served(installed)
        if shown is not None:
            lie(installed, shown)
        done = await installed("policy", "refresh", code=4 if code else 0)
        assert code in done.stderr
        be_honest(installed)
        assert ((await served(installed))["snapshot"] != had["snapshot"]) == (not code)
        state.mkdir(exist_ok=True)


async def test_v1_the_first_publication_is_what_init_made_here(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """V1: an honest first user is asked nothing; what was changed in between is shown to a person, or not signed."""
    await cli("init", "--no-passphrase", "--owner", "ada")
    made = record_file(cli).read_bytes()
    record_file(cli).write_bytes(set_back(cli, thief := Ed25519Signer.generate()))
    assert "[policy/no-floors]" in (await cli(*PUBLISH, code=4)).stderr
    said_no = await asked(cli, monkeypatch, "n", *PUBLISH, "--first-publication")
    assert (said_no.exit_code, "[cli/not-signed]" in said_no.stderr) == (1, True)
    assert f'author {thief.keyid} of "thief", active' in said_no.stderr.replace("\n    | ", "")
    assert (await served(cli))["targets"] is None
    # Lines end otherwise in some checkouts; no hub took it the first time.
    record_file(cli).write_bytes(made.replace(b"\n", b"\r\n"))
    with monkeypatch.context() as patch:
        patch.setattr(Base, "upload", _away)
        await cli(*PUBLISH, code=3)
    await cli(*PUBLISH)
    assert await authors(cli) == {"ada"}


async def test_v1_the_first_publication_from_another_machine_is_shown_whole(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V1: every key, role, author and bundle, and a yes; afterwards nothing is the first any more."""
    await cli("init", "--no-passphrase", "--owner", "ada")
    shutil.rmtree(cli.home / "state")
    assert "[policy/no-floors]" in (await cli(*PUBLISH, code=4)).stderr
    proposal = tmp_path / "p.json"
    await cli(*PUBLISH, "--propose", str(proposal))
    own = own_record(cli)
    (ada,) = own.keyring.entries
    signed = (await cli("trust", "sign", str(proposal))).stderr.replace("\n    | ", "")
    assert f'+ author {ada.keyid} of "ada"' in signed
    assert f"+ role keyring: 1 of 1: {own.keyids('keyring')[0]}" in signed
    assert "[policy/no-floors]" in (await cli("trust", "submit", str(proposal), code=4)).stderr
    done = await asked(cli, monkeypatch, "y", *PUBLISH, "--first-publication")
    assert done.exit_code == 0
    told = done.stderr.replace("\n    | ", "")
    for role in ("root", "targets", "snapshot", "timestamp", "keyring"):
        assert f"role {role}: 1 of 1: {own.keyids(role)[0]}" in told
    assert f'author {ada.keyid} of "ada", active' in told
    assert "bundle bundles/starter-" in told
    again = await asked(cli, monkeypatch, "y", *PUBLISH, "--first-publication")
    assert (again.exit_code, "[policy/not-first]" in again.stderr) == (4, True)
    shutil.rmtree(cli.home / "state")
    again = await asked(cli, monkeypatch, "y", *PUBLISH, "--first-publication")
    assert (again.exit_code, "[policy/not-first]" in again.stderr) == (4, True)


def _away(*_: object) -> None:
    raise UNREACHABLE("away")
