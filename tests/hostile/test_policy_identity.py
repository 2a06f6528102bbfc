"""A policy document is what was signed, not a file: junk signatures of a carrier, and roots that somebody shows first.

Asserted by what agents, command lines and hubs take from honest people afterwards.
"""

# ruff: noqa: F811 - fixtures of another directory

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets

from agent.policy.store import PolicyStore
from cellward.api import schemas
from cellward.documents.dsse import Ed25519Signer
from cellward.errors import CellwardError
from cellward.policy import trust
from cellward.policy.ceremony import Proposal
from cellward.policy.client import select_all
from cellward.policy.floors import PolicyFloors, RoleFloor
from cellward.policy.publisher import MetadataFile, Publication, refresh
from cellward.policy.record import Record
from cellward.policy.signing import TufSigner
from cli.context import instant
from cli.door.keyring import trusted_policy
from cli.home import Home
from cli.keys import public_pem
from hub.policy.service import TufRepository
from hub.store.sql.tuf import SqlTuf
from tests.fakes.clock import ManualClock
from tests.fakes.command_line import CELL, Cli, client_of, file_in
from tests.fakes.policy import PolicyWorld, denying, keys_of, moment, now
from tests.fakes.store import scratch_store
from tests.hostile.test_policy_sets import Agent, Served
from tests.hostile.test_publishing import PUBLISH, be_honest, lie, public_key, record, served
from tests.integration.api.conftest import _quiet, cli, installed, made  # noqa: F401 - fixtures

ROLES = ("root", "timestamp", "snapshot", "targets", "keyring")


def junk(data: bytes | None) -> bytes:
    """The same document with a signature more, of a key that nobody knows."""
    assert data is not None
    value = json.loads(data)
    value["signatures"].append({"keyid": "ab" * 32, "sig": "00" * 64})
    return json.dumps(value).encode()


@pytest.fixture
def world() -> PolicyWorld:
    """An authority whose second root is in force."""
    made = PolicyWorld()
    made.publish(denying("Bad"))
    made.rotate()
    made.publish(denying("Bad", version="1.0.1"))
    return made


def with_junk(world: PolicyWorld, role: str) -> None:
    """Let the hub that is served by add a signature to the newest of a role; whoever names its bytes is on its side."""
    source = world.source.metadata
    version = world.version(role)
    source[role, version] = junk(source[role, version])
    if role in {"targets", "keyring"}:  # with a stolen publisher key
        newest = world.version("snapshot")
        over = Metadata[Snapshot].from_bytes(source["snapshot", newest])
        over.signed.version += 1
        over.signed.meta[f"{role}.json"] = MetaFile.from_data(version, source[role, version], ["sha256"])
        over.sign(TufSigner(world.publisher_key))
        source["snapshot", newest + 1] = over.to_bytes()
    if role in {"snapshot", "targets", "keyring"}:
        world.timestamp()


@pytest.mark.parametrize("lost", [False, True], ids=["kept", "lost-volume"])
@pytest.mark.parametrize("role", ROLES)
def test_v1_an_agent_goes_on_with_an_honest_hub(world: PolicyWorld, tmp_path: Path, role: str, lost: bool) -> None:
    """V1: what a hub added to a file is no other document: the honest file, and what is made from it, are taken."""
    honest = dict(world.source.metadata)
    with_junk(world, role)
    agent = Agent(world, tmp_path / "one")
    agent.accept()
    if lost:
        floors = PolicyFloors.from_json(json.loads(json.dumps(agent.store.floors.to_json())))
        agent = Agent(world, tmp_path / "two")
        agent.store.load(select_all, floors)
    world.source.metadata = honest
    if role in {"targets", "keyring"}:
        world.refresh()  # above the snapshot of the thief
    elif role != "timestamp":
        world.timestamp()
    agent.accept()
    for number in range(2):
        world.publish(denying("Bad", version=f"1.1.{number}"))
        agent.accept()
    assert agent.restarted()[0].store.floors.roles == trust.floors_of(trust.verify_set(_set(world)))


def _set(world: PolicyWorld) -> trust.MetadataSet:
    newest = {role: world.source.metadata[role, world.version(role)] for role in ROLES[1:]}
    return trust.MetadataSet(world.record.roots, **newest)


def test_v1_another_document_of_the_same_version_is_still_refused(world: PolicyWorld, tmp_path: Path) -> None:
    """V1: two roots of one version by the real keys are two documents, whatever stands beside them."""
    agent = Agent(world, tmp_path)
    agent.accept()
    fork = Metadata[Root].from_bytes(world.source.metadata["root", 2])
    fork.signed.expires -= timedelta(days=1)
    fork.sign(TufSigner(world.root_key))
    world.source.metadata["root", 2] = fork.to_bytes()
    world.timestamp()
    fresh = PolicyStore(tmp_path / "fresh", root=world.root, realm=world.realm)
    fresh.load(select_all, agent.store.floors)
    with pytest.raises(CellwardError) as caught:
        fresh.fetch(Served(world), select_all, moment())
    assert (caught.value.code, caught.value.details["role"]) == ("policy/rollback", "root")


@pytest.mark.parametrize("lost", [False, True], ids=["kept", "lost-volume"])
def test_state_of_a_version_that_took_files_for_documents_is_read(
    world: PolicyWorld, tmp_path: Path, lost: bool
) -> None:
    """V1: versions hold at once; what the document of that version is, is known again from the next set."""
    agent = Agent(world, tmp_path / "one")
    agent.accept()
    before = {
        role: {"version": floor.version, "digest": "sha256:" + "1" * 64}
        for role, floor in agent.store.floors.roles.items()
    }
    floors = PolicyFloors.from_json({"roles": before, "keys": {}})
    file = tmp_path / "one" / "current.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "floors": {"roles": before, "keys": {}}}))
    again = Agent(world, tmp_path / ("two" if lost else "one"))
    assert (again.store.load(select_all, floors).verified is None) == lost
    assert {role: floor.version for role, floor in again.store.floors.roles.items()} == {
        role: one["version"] for role, one in before.items()
    }
    world.timestamp()
    again.accept()
    assert again.store.floors.roles == trust.floors_of(trust.verify_set(_set(world)))


@pytest.fixture
def hub(world: PolicyWorld) -> tuple[TufRepository, SqlTuf]:
    """A hub that has nothing yet."""
    store = scratch_store().tuf
    return TufRepository(store, world.hub_key, ManualClock(now()), realm=lambda: world.realm), store


def _uploaded(world: PolicyWorld, change: Callable[[str, bytes], bytes]) -> Publication:
    """What is in force, as an upload, with some of its files changed on the way."""
    newest = {role: world.version(role) for role in ("targets", "keyring", "snapshot")}
    files = [("root", 1), ("root", 2), *newest.items()]
    data = {file: world.source.metadata.get(file, world.root) for file in files}
    return Publication(
        tuple(MetadataFile(role, number, change(role, data[role, number])) for role, number in files),
        dict(world.source.targets),
    )


def _junk_on(*roles: str) -> Callable[[str, bytes], bytes]:
    return lambda role, data: junk(data) if role in roles else data


async def test_whoever_may_upload_changes_no_stored_byte(world: PolicyWorld, hub: tuple[TufRepository, SqlTuf]) -> None:
    """An admin's token without a key: junk on a root or a snapshot is not kept, and on targets nobody signed for it."""
    repository, store = hub
    await repository.publish(_uploaded(world, lambda _, data: data))
    files = [("root", 1), ("root", 2), *((role, world.version(role)) for role in ("targets", "keyring", "snapshot"))]
    before = [await store.get_metadata(*file) for file in files]
    await repository.publish(_uploaded(world, _junk_on("root", "snapshot")))
    for role in ("targets", "keyring"):
        with pytest.raises(CellwardError) as caught:
            await repository.publish(_uploaded(world, _junk_on(role)))
        assert caught.value.code == "policy/incomplete-set"  # not of the length that the snapshot names
    assert [await store.get_metadata(*file) for file in files] == before


async def test_a_signature_that_a_signer_adds_later_makes_no_other_document(
    hub: tuple[TufRepository, SqlTuf], world: PolicyWorld, tmp_path: Path
) -> None:
    """Two of three sign, the third adds his afterwards: the record goes on with either file, at hub and agent."""
    repository, _ = hub
    second = Ed25519Signer.generate()
    world.rotate(targets=keys_of(world.policy_key, second))
    world.publish(denying("Bad", version="1.0.2"))
    await repository.publish(replace(world.refresh(), targets=dict(world.source.targets)))
    agent = Agent(world, tmp_path)
    agent.accept()
    targets = Metadata[Targets].from_bytes(world.record.targets or b"")
    targets.sign(TufSigner(second), append=True)
    more = replace(world.record, targets=targets.to_bytes())
    more.check_newest(agent.store.floors)
    renewed = refresh(more, keys=world.keys, now=moment(), seen=agent.store.floors)
    result = await repository.publish(renewed)
    assert await repository.fetch("targets", result.targets_version) == more.targets
    world.take(renewed)
    agent.accept()
    assert len(json.loads(agent.store._files["metadata/targets.json"])["signatures"]) == 2


async def test_a_root_without_a_set_made_for_it_is_not_taken(
    world: PolicyWorld, hub: tuple[TufRepository, SqlTuf]
) -> None:
    """Somebody has a token and the file of a ceremony, and no key: its publishers come first."""
    repository, _ = hub
    await repository.publish(_uploaded(world, lambda _, data: data))
    in_force = _uploaded(world, lambda _, data: data)
    root = MetadataFile("root", 3, world.rotate())
    with pytest.raises(CellwardError) as caught:
        await repository.publish(replace(in_force, metadata=(*in_force.metadata, root)))
    assert caught.value.code == "policy/incomplete-set"
    assert await repository.fetch("root", 3) is None
    published = world.publish(denying("Bad", version="1.0.3"))
    assert (await repository.publish(published)).root_version == 3


async def ceremony(run: Cli, directory: Path, *words: str) -> tuple[Path, bytes]:
    """Make and sign a proposal with a new root; return its file, and that root."""
    file = directory / "proposal.json"
    await run("trust", "upgrade", *(words or ("--renew",)), "--out", str(file))
    await run("trust", "sign", str(file))
    own = Record.from_bytes((run.home / "policy-record.json").read_bytes(), root=(run.home / "root.json").read_bytes())
    root = Proposal.from_bytes(file.read_bytes(), own=own).root
    assert root is not None
    return file, root


async def look(run: Cli) -> RoleFloor:
    """Let this machine look at the hub's policy; return its floor of the root."""
    home = Home(run.home)
    await asyncio.to_thread(trusted_policy, client_of(run), home, home.trust(), instant())
    floors = json.loads((run.home / "state" / "state.json").read_text())["floors"]
    return RoleFloor(floors["root"]["version"], floors["root"]["digest"])


async def test_the_runbook_of_a_stolen_hub_holds_after_a_look_at_it(installed: Cli, tmp_path: Path) -> None:
    """A machine that had not seen root 2 sees it with junk; policy is signed and moved to a new hub all the same."""
    file, root = await ceremony(installed, tmp_path)
    await installed("trust", "submit", str(file))
    shutil.rmtree(installed.home / "state")
    lie(installed, {}, {2: junk(root)})
    seen = await look(installed)
    assert seen == trust.floor_in("root", root)
    be_honest(installed)
    assert await look(installed) == seen
    key = tmp_path / "new-hub.pub"
    key.write_bytes(public_pem(Ed25519Signer.generate().public_spki_der))
    await installed("trust", "upgrade", "--timestamp", str(key), "--out", str(tmp_path / "new-hub.json"))
    await installed("policy", "refresh")
    await installed(*PUBLISH)
    await installed("apply", "-f", file_in(tmp_path, CELL), "-e", "dev")
    await installed("author", "revoke", "ada", "--compromised")
    assert await look(installed) == seen


async def test_a_root_that_somebody_showed_first_is_submitted_all_the_same(installed: Cli, tmp_path: Path) -> None:
    """A stolen hub has the file of a finished ceremony, and adds junk to its root: this machine has seen it since."""
    file, root = await ceremony(installed, tmp_path)
    lie(installed, {}, {2: junk(root)})
    await look(installed)
    refused = await installed("policy", "refresh", code=4)
    assert "policy/record-older" in refused.stderr
    assert "trust follow" in refused.stderr
    be_honest(installed)
    await installed("trust", "sign", str(file))
    lie(installed, {}, {2: junk(root)})
    await installed("trust", "submit", str(file))
    be_honest(installed)
    assert len(record(installed)["roots"]) == 2
    for words in (("policy", "refresh"), ("author", "revoke", "ada", "--compromised"), PUBLISH):
        await installed(*words)


async def test_a_lost_ceremony_is_followed_into_the_record(installed: Cli, tmp_path: Path) -> None:
    """Its root alone is known, from a hub: the record goes on from it without a key, and everything is signed again."""
    file, root = await ceremony(installed, tmp_path)
    file.unlink()
    lie(installed, {}, {2: root})
    before = record(installed)
    keys = installed.home / "keys"
    keys.rename(tmp_path / "keys")
    shown = json.loads((await installed("trust", "follow", "--dry-run", "-o", "json")).stdout)
    assert (shown["rootVersion"], shown["changes"], record(installed)) == (2, [], before)
    await installed("trust", "follow")
    (tmp_path / "keys").rename(keys)
    after = record(installed)
    assert len(after.pop("roots")) == 2
    assert {name: value for name, value in after.items() if name != "seen"} == {
        name: value for name, value in before.items() if name not in {"seen", "roots"}
    }
    for words in (("policy", "refresh"), ("author", "revoke", "ada", "--compromised"), PUBLISH):
        await installed(*words)
    assert (await look(installed)) == trust.floor_in("root", root)


async def test_a_lost_ceremony_that_changed_the_policy_keys_is_proposed_anew(installed: Cli, tmp_path: Path) -> None:
    """What the old keys signed does not count under that root: the record stays, and it is signed anew with it."""
    await installed("keys", "create", "second", "--no-passphrase")
    new = str(installed.home / "keys" / "second.pub")
    file, root = await ceremony(installed, tmp_path, "--policy", new)
    file.unlink()
    lie(installed, {}, {2: root})
    before = record(installed)
    refused = await installed("trust", "follow", code=2)
    assert "--out" in refused.stderr
    assert record(installed) == before
    await installed("trust", "follow", "--out", str(file))
    await installed("trust", "sign", str(file))
    await installed("trust", "submit", str(file))
    be_honest(installed)
    assert (await look(installed)) == trust.floor_in("root", root)
    await installed("author", "revoke", "ada", "--compromised")


async def test_no_root_is_followed_that_its_keys_did_not_sign(installed: Cli, tmp_path: Path) -> None:
    """A hub's word makes no root: one below the old threshold, or of other keys, changes no record."""
    out = tmp_path / "proposal.json"
    await installed("trust", "upgrade", "--root", public_key(tmp_path, "thief"), "--out", str(out))
    own = Record.from_bytes(
        (installed.home / "policy-record.json").read_bytes(), root=(installed.home / "root.json").read_bytes()
    )
    proposed = Proposal.from_bytes(out.read_bytes(), own=own).root
    stranger = Metadata[Root].from_bytes(proposed or b"")
    stranger.sign(TufSigner(Ed25519Signer.generate()))
    before = record(installed)
    for root in (proposed, stranger.to_bytes()):
        assert root is not None
        lie(installed, {}, {2: root})
        for words in ((), ("--out", str(tmp_path / "new.json"))):
            refused = await installed("trust", "follow", *words, code=4)
            assert "policy/unverified" in refused.stderr
        assert record(installed) == before


async def test_a_token_and_a_ceremonys_file_lock_nobody_out(installed: Cli, tmp_path: Path) -> None:
    """On an honest hub, over its API: the root is refused, and the publishers go on."""
    file, root = await ceremony(installed, tmp_path)
    found = await served(installed)
    own = (installed.home / "root.json").read_bytes()
    files = [("root", 1, own), ("root", 2, junk(root))]
    for role in ("targets", "keyring", "snapshot"):
        data = found[role] or b""
        files.append((role, trust.floor_in(role, data).version, data))
    body = schemas.Publication(
        metadata=[schemas.MetadataFile(role=role, version=number, data=data) for role, number, data in files],
        targets=[],
    )
    with pytest.raises(CellwardError) as caught:
        await asyncio.to_thread(client_of(installed).post, "/policy/publications", body, schemas.PublicationResult)
    assert caught.value.code == "policy/incomplete-set"
    assert await served(installed) == found
    await installed("policy", "refresh")
    await installed("trust", "submit", str(file))
    assert len(record(installed)["roots"]) == 2
