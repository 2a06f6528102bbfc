"""What a stolen hub tries to have signed by those who publish policy; asserted by what a key signed afterwards."""

# ruff: noqa: F811 - fixtures of another directory

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Snapshot, Targets

from cellward.documents.dsse import Ed25519Signer
from cellward.documents.keyring import Keyring
from cellward.errors import CellwardError
from cellward.policy.errors import UNREACHABLE
from cellward.policy.floors import PolicyFloors
from cellward.policy.publisher import Publication
from cellward.policy.record import Record
from cli.author import amend
from cli.context import instant, local
from cli.door.keyring import trusted_policy
from cli.home import Home
from cli.keys import public_pem
from cli.output import Format
from cli.records import Options, base_of
from cli.state.model import State
from cli.state.policy import with_policy
from hub.policy.service import PublishResult
from tests.fakes.command_line import CELL, STARTER, Cli, client_of, file_in
from tests.integration.api.conftest import _quiet, cli, installed, made  # noqa: F401 - fixtures

PUBLISH = ("policy", "publish", str(STARTER), "--skip-compile")


@dataclass
class Lying:
    """A hub's store of policy that shows other metadata than was published last; ``roots`` may show anything."""

    true: Any
    shown: Mapping[str, bytes | None]
    roots: Mapping[int, bytes]

    async def get_metadata(self, role: str, version: int | None = None) -> bytes | None:
        if role == "root" and version in self.roots:
            return self.roots[version]
        if version is None and role in self.shown:
            return self.shown[role]
        found: bytes | None = await self.true.get_metadata(role, version)
        return found

    async def publish(self, metadata: Any, targets: Any, expect: object = None) -> None:
        """Keep whatever comes."""
        await self.true.publish(metadata, targets, {})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.true, name)


async def served(run: Cli) -> dict[str, bytes | None]:
    """The newest metadata that the hub has."""
    repository = run.api.services.policy
    roles = ("targets", "keyring", "snapshot", "timestamp")
    return {role: await repository.fetch(role, None) for role in roles}


def lie(run: Cli, shown: Mapping[str, bytes | None], roots: Mapping[int, bytes] | None = None) -> None:
    """Let the hub show something else from now on."""
    repository: Any = run.api.services.policy
    repository._store = Lying(_true(repository._store), shown, roots or {})

    async def publish(upload: Publication, *, commit: object = None) -> PublishResult:
        """Keep what was uploaded, whatever was shown before."""
        result: PublishResult = await type(repository).publish(repository, upload)
        return result

    repository.publish = publish


def be_honest(run: Cli) -> None:
    """Let it show what there is."""
    repository: Any = run.api.services.policy
    repository._store = _true(repository._store)
    vars(repository).pop("publish", None)


def _true(store: Any) -> Any:
    return store.true if isinstance(store, Lying) else store


def public_key(directory: Path, name: str) -> str:
    """A new author's public key."""
    path = directory / f"{name}.pub"
    path.write_bytes(public_pem(Ed25519Signer.generate().public_spki_der))
    return str(path)


def record(run: Cli) -> dict[str, Any]:
    """The publishers' record."""
    found: dict[str, Any] = json.loads((run.home / "policy-record.json").read_text())
    return found


async def test_a_hub_that_shows_an_older_set_does_not_get_it_signed_again(installed: Cli, tmp_path: Path) -> None:
    """A keyring from before a revocation is not put under a new snapshot, with the record or without it."""
    await installed("author", "add", "bob", "--key", public_key(tmp_path, "bob"))
    before = await served(installed)
    await installed("author", "revoke", "bob", "--compromised")
    revoked = await served(installed)
    lie(installed, before)
    done = await installed("policy", "refresh", "-o", "json")
    be_honest(installed)
    after = await served(installed)
    assert after["snapshot"] != revoked["snapshot"]
    assert (after["targets"], after["keyring"]) == (revoked["targets"], revoked["keyring"])
    version = json.loads(done.stdout)["snapshotVersion"]
    named = Metadata[Snapshot].from_bytes(after["snapshot"] or b"").signed
    assert named.version == version
    assert named.meta["keyring.json"].version == Metadata[Targets].from_bytes(revoked["keyring"] or b"").signed.version

    (installed.home / "policy-record.json").unlink()
    lie(installed, before)
    for words in (("policy", "refresh"), PUBLISH, ("author", "revoke", "ada")):
        refused = await installed(*words, code=4)
        assert "policy/no-record" in refused.stderr
    assert "--first-use" not in (await installed("policy", "refresh", "--help")).stdout


async def test_a_runner_with_an_older_record_signs_nothing(installed: Cli, tmp_path: Path) -> None:
    """A checkout from before a revocation: refused by what the hub shows, by memory, and in the end by agents."""
    await installed("author", "add", "bob", "--key", public_key(tmp_path, "bob"))
    old, state = tmp_path / "old.json", installed.home / "state"
    shutil.copy(installed.home / "policy-record.json", old)
    before = await served(installed)
    await installed("author", "revoke", "bob", "--compromised")
    # Memory alone: the hub hides the newer set.
    lie(installed, before)
    refused = await installed("policy", "refresh", "--record", str(old), code=4)
    assert "policy/record-older" in refused.stderr
    # The hub alone: a runner without memory.
    be_honest(installed)
    shutil.rmtree(state)
    refused = await installed("policy", "refresh", "--record", str(old), code=4)
    assert "policy/record-older" in refused.stderr
    # Neither: nothing is signed.
    lie(installed, before)
    for words in (PUBLISH, ("author", "revoke", "ada")):
        refused = await installed(*words, "--record", str(old), code=4)
        assert "policy/no-floors" in refused.stderr
    # Once it learnt the older set from that hub: made from less than is in force, and nobody who knows that takes it.
    await installed("trust", "learn")
    await installed(*PUBLISH, "--record", str(old))
    home = Home(installed.home)
    newest = Record.from_bytes((installed.home / "policy-record.json").read_bytes(), root=_root(installed))
    with home.state(home.trust()).change() as change:
        change.state = with_policy(State(realm=home.trust().realm), newest.floors())
    be_honest(installed)
    with pytest.raises(CellwardError) as caught:
        await asyncio.to_thread(trusted_policy, client_of(installed), home, home.trust(), instant())
    assert caught.value.code == "policy/old-base"


def _root(run: Cli) -> bytes:
    return (run.home / "root.json").read_bytes()


async def test_a_root_shown_twice_spoils_nothing(installed: Cli) -> None:
    """It once became root version 2 in the floors: after it no honest hub could be published to."""
    root = (installed.home / "root.json").read_bytes()
    lie(installed, {}, {2: root})
    for words in (("policy", "refresh"), PUBLISH):
        refused = await installed(*words, code=4)
        assert "policy/unverified" in refused.stderr
    be_honest(installed)
    await installed("policy", "refresh")
    await installed(*PUBLISH)
    state = json.loads((installed.home / "state" / "state.json").read_text())
    assert state["floors"]["root"]["version"] == 1


async def test_the_keyring_that_documents_are_verified_by_is_the_newest_ever_seen(
    installed: Cli,
    tmp_path: Path,
) -> None:
    """A hub that shows the keyring from before a revocation: no document counts by it, and the release is not taken."""
    await installed("apply", "-f", file_in(tmp_path, CELL), "-e", "dev")
    before = await served(installed)
    await installed("author", "revoke", "ada", "--compromised")
    await installed("policy", "refresh")
    shown = await served(installed)
    assert Metadata[Targets].from_bytes(shown["keyring"] or b"").signed.version > 1
    state = (installed.home / "state" / "state.json").read_text()
    assert list(json.loads(state)["keys"].values()) == ["compromised"]
    lie(installed, before)
    home = Home(installed.home)
    with pytest.raises(CellwardError) as caught:
        await asyncio.to_thread(trusted_policy, client_of(installed), home, home.trust(), instant())
    assert caught.value.code == "policy/rollback"


async def test_what_a_command_line_only_read_it_remembers(installed: Cli, tmp_path: Path) -> None:
    """Another machine than the one that published: an older set, or a good word for a bad key, is refused there too."""
    await installed("author", "add", "bob", "--key", public_key(tmp_path, "bob"))
    before = await served(installed)
    await installed("author", "revoke", "bob", "--compromised")
    shutil.rmtree(installed.home / "state")
    home = Home(installed.home)

    async def trusted() -> None:
        await asyncio.to_thread(trusted_policy, client_of(installed), home, home.trust(), instant())

    await trusted()
    kept = json.loads((installed.home / "state" / "state.json").read_text())
    assert (set(kept["floors"]), list(kept["keys"].values())) >= ({"root", "targets", "keyring"}, ["compromised"])
    lie(installed, before)
    with pytest.raises(CellwardError) as caught:
        await trusted()
    assert caught.value.code == "policy/rollback"
    be_honest(installed)
    (ada,) = [entry["keyid"] for entry in record(installed)["content"]["keyring"]["entries"] if entry["owner"] == "ada"]
    with home.state(home.trust()).change() as change:
        change.state = with_policy(change.state, PolicyFloors({}, {ada: "compromised"}))
    with pytest.raises(CellwardError) as caught:
        await trusted()
    assert caught.value.code == "policy/key-state-lifted"


async def test_a_key_that_was_revoked_is_brought_back_by_nobody(installed: Cli, tmp_path: Path) -> None:
    """Not by the command line, whatever the record was edited to; what a hub and agents do, their own tests show."""
    await installed("author", "add", "bob", "--key", public_key(tmp_path, "bob"))
    again = str(tmp_path / "bob.pub")
    await installed("author", "revoke", "bob")
    for words in (("author", "add", "bob", "--key", again), ("author", "rotate", "ada", "--key", again)):
        refused = await installed(*words, code=1)
        assert "cli/exists" in refused.stderr
    edited = record(installed)
    for entry in edited["content"]["keyring"]["entries"]:
        entry["state"] = "active"
    (installed.home / "policy-record.json").write_text(json.dumps(edited))
    refused = await installed("policy", "refresh", code=2)
    assert "policy/bad-record" in refused.stderr


@pytest.mark.parametrize(
    "words",
    [
        PUBLISH,
        ("policy", "refresh"),
        ("policy", "minimum", "shop"),
        ("author", "add", "bob", "--key", "{key}"),
        ("author", "revoke", "ada"),
        ("author", "rotate", "ada", "--key", "{key}"),
        ("lock", "agent/11111111-1111-4111-8111-111111111111", "--reason", "stolen", "--signed"),
        ("quarantine", "shop/cart", "-e", "dev", "--reason", "odd", "--signed"),
        ("trust", "upgrade", "--root", "{key}", "--out", "{out}"),
    ],
    ids=" ".join,
)
async def test_dry_runs_open_no_key(installed: Cli, tmp_path: Path, words: tuple[str, ...]) -> None:
    """No private key is on the machine, and a dry run says all the same what it would do; nothing is kept."""
    key, out = public_key(tmp_path, "new"), tmp_path / "proposal.json"
    before = (record(installed), await served(installed))
    for pem in (installed.home / "keys").glob("*.pem"):
        pem.write_bytes(b"no key")
    arguments = [word.format(key=key, out=out) for word in words]
    shown = json.loads((await installed(*arguments, "--dry-run", "-o", "json")).stdout)
    assert shown["dryRun"] is True
    assert (record(installed), await served(installed)) == before
    assert not out.exists()


async def test_what_is_locked_and_quarantined_by_signature_stands_in_the_set(installed: Cli) -> None:
    """Set by the keyring key, refused to a hub's unlock, lifted by a new signed set alone."""
    lock = "agent/11111111-1111-4111-8111-111111111111"
    await installed("lock", lock, "--reason", "stolen", "--signed")
    await installed("quarantine", "shop/cart", "-e", "dev", "--reason", "odd", "--signed")
    await installed("policy", "minimum", "*", "--issued-at", "2026-01-02T03:04:05")
    found = await installed.api.services.policy.revocations()
    assert [str(one) for one in found.as_locks()] == [lock]
    assert [one.key for one in found.quarantines] == [("shop", "cart", "dev")]
    assert found.minimum("shop") is not None
    await installed("unlock", lock, "--signed")
    await installed("lift", "shop/cart", "--signed")
    await installed("policy", "minimum", "*", "--clear")
    found = await installed.api.services.policy.revocations()
    assert (found.locks, found.quarantines, found.minimum("shop")) == ((), (), None)
    await installed("unlock", lock, "--signed", code=2)


async def test_a_lock_that_the_hub_did_not_take_holds_here(installed: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """V2: the key is locked for this machine from its signature on, and until a signed set lifts it."""
    policy = installed.api.services.policy

    async def away(*_: object, **__: object) -> object:
        raise UNREACHABLE("the hub is busy")

    def verified_by() -> Keyring:
        place = Home(installed.home)
        return trusted_policy(client_of(installed), place, place.trust(), instant()).keyring

    async def locked() -> list[str]:
        keyring = await asyncio.to_thread(verified_by)
        found: list[str] = json.loads((await installed("trust", "show", "-o", "json")).stdout)["lockedKeys"]
        assert [entry.keyid for entry in keyring.entries if entry.state == "compromised"] == found
        return found

    (author,) = (await asyncio.to_thread(verified_by)).entries
    with monkeypatch.context() as patched:
        patched.setattr(policy, "publish", away)
        await installed("lock", f"key/{author.keyid}", "--reason", "stolen", "--signed", code=3)
    assert (await policy.revocations()).locks == ()
    assert await locked() == [author.keyid]
    assert await locked() == [author.keyid]
    await installed("policy", "refresh")
    assert [one.subject for one in (await policy.revocations()).locks] == [author.keyid]
    assert await locked() == [author.keyid]
    await installed("unlock", f"key/{author.keyid}", "--signed")
    assert await locked() == []


async def test_authors_come_and_go_without_root_and_policy_key(installed: Cli, tmp_path: Path) -> None:
    """Add, rotate and revoke need the keyring and publisher keys; the targets stay as they were signed."""
    targets = (await served(installed))["targets"]
    for name in ("root", "policy"):
        (installed.home / "keys" / f"{name}.pem").unlink()
    await installed("author", "add", "bob", "--key", public_key(tmp_path, "bob"), "--project", "shop", "--days", "30")
    await installed("author", "rotate", "bob", "--key", public_key(tmp_path, "bob2"))
    rotated = [entry for entry in record(installed)["content"]["keyring"]["entries"] if entry["owner"] == "bob"]
    assert [(entry["state"], entry["projects"]) for entry in rotated] == [("retired", ["shop"]), ("active", ["shop"])]
    await installed("author", "revoke", "bob", "--compromised")
    await installed("author", "revoke", "bob")  # retiring what is stolen makes it no better
    assert (await served(installed))["targets"] == targets
    keyring = Keyring.from_json(record(installed)["content"]["keyring"])
    states = {(entry.owner, entry.state) for entry in keyring.entries}
    assert states == {("ada", "active"), ("bob", "compromised")}
    listed = json.loads((await installed("keys", "list", "-o", "json")).stdout)
    authors = [(key["owner"], key["state"], key["localName"]) for key in listed if key["role"] == "author"]
    assert ("ada", "active", "author") in authors
    assert all(key["expires"] for key in listed)
    assert {key["role"] for key in listed} == {"root", "policy", "publisher", "hub", "keyring", "author"}


async def test_check_is_red_where_a_hub_shows_older_policy_than_was_seen(installed: Cli, tmp_path: Path) -> None:
    """Each part of the older set lives on, and looks well by itself."""
    await installed("author", "add", "bob", "--key", public_key(tmp_path, "bob"))
    before = await served(installed)
    await installed("author", "revoke", "bob", "--compromised")

    async def told() -> dict[str, Any]:
        lines = json.loads((await installed("check", "-o", "json", code=1)).stdout)["checks"]  # no agent is connected
        return {line["id"]: line for line in lines if line["category"] == "policy"}

    assert {line["status"] for line in (await told()).values()} == {"ok"}
    lie(installed, before)
    found = await told()
    assert (found["policy/accepted"]["status"], found["policy/accepted"]["code"]) == ("failed", "policy/rollback")


async def test_two_commands_on_one_record_lose_nothing(installed: Cli, tmp_path: Path) -> None:
    """Both read the record, one revokes a key: what the other made from the record before is not published."""
    await installed("author", "add", "bob", "--key", public_key(tmp_path, "bob"))
    base = await asyncio.to_thread(base_of, local(installed.home), None)
    await installed("author", "revoke", "bob", "--compromised")
    kept, shown = record(installed), await served(installed)
    options = Options(installed.home, None, dry_run=False, wait=None, output=Format.table, passphrase_file=None)
    with pytest.raises(CellwardError) as raised:
        await asyncio.to_thread(amend, base, options, keyring=base.record.keyring)
    assert raised.value.code == "policy/record-older"
    assert (record(installed), await served(installed)) == (kept, shown)
