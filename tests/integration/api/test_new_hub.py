"""The runbook of a stolen hub, run: a hub with keys of its own takes over the realm, and nothing goes back."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from tuf.api.metadata import Snapshot, Timestamp

from cellward.documents.dsse import Ed25519Signer
from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from cellward.identity.keys import spki_digest, spki_of
from cellward.identity.x509 import authority_keyids
from cellward.policy import trust
from cellward.policy.floors import PolicyFloors
from cellward.policy.publisher import MetadataFile, sign_timestamp
from cli.context import instant
from hub.authority.keystore import KeyStore
from hub.policy.service import TufRepository
from tests.fakes.command_line import CELL, STARTER, Cli, file_in
from tests.fakes.live_api import TOKENS, LiveApi, hub_keys, live_api
from tests.integration.api.test_runbooks import RUNBOOKS, commands, filled

GUIDE = RUNBOOKS / "stolen-hub.md"


@dataclass
class NewHub:
    """A fresh hub, and what its administrator reads on its machine."""

    api: LiveApi
    data: Path

    @property
    def key_ids(self) -> dict[str, str]:
        """What ``cat DATADIR/keys/keys.json`` shows."""
        found: dict[str, str] = json.loads((self.data / "keys" / "keys.json").read_text())
        return found

    def names(self, directory: Path, home: Path) -> dict[str, str]:
        """Words of the runbook that stand for something."""
        return {
            "OLDLOG": str(directory / "old.ndjson"), "CELLS": str(directory / "cell.yaml"), "ENVIRONMENT": "dev",
            "OLDKEY": yaml.safe_load((home / "trust.yaml").read_text())["treeHeadKey"], "SERVER": self.api.server,
            "CAFILE": str(self.data / "keys" / "hub-ca.crt.pem"), "TOKENFILE": str(self.data / "admin.token"),
            "TIMESTAMPID": self.key_ids["timestamp"], "TREEHEADID": self.key_ids["tree-head"],
            "PROPOSAL": str(directory / "proposal.json"), "BUNDLES": str(directory / "bundles"), "NAME": "eu-1",
        }  # fmt: skip


@asynccontextmanager
async def new_hub(directory: Path) -> AsyncIterator[NewHub]:
    """A hub on a clean machine: keys from its own key store, an empty database."""
    data = directory / "clean"
    data.mkdir()
    made = KeyStore(data / "keys", b"a passphrase").open(instant())
    (data / "admin.token").write_text(TOKENS["admin"])
    async with live_api(data, made) as api:
        yield NewHub(api, data)


async def served(repository: TufRepository, first: bytes) -> trust.MetadataSet:
    """What a hub serves to an agent that was installed with the first root."""
    roots = [first]
    while (following := await repository.fetch("root", len(roots) + 1)) is not None:
        roots.append(following)
    found = [await repository.fetch(role, None) for role in ("timestamp", "snapshot", "targets", "keyring")]
    return trust.MetadataSet(tuple(roots), *(data for data in found if data is not None))


async def play(cli: Cli, new: NewHub, names: dict[str, str]) -> dict[str, str]:
    """Run the runbook as it stands; returns what each command printed, by its first two words."""
    told: dict[str, str] = {}
    for line in commands(GUIDE):
        if line.startswith("apply"):
            await new.api.agent_joins("eu-1", "dev", region="eu")
        # The fleet of this test is one agent without an engine, so that some lines of check are red.
        done = await cli(*filled(line, names), *(("-o", "json") if line == "check" else ()), code=int(line == "check"))
        told[" ".join(line.split()[:2])] = done.stdout
    return told


def set_by_old_key(old: LiveApi, given: trust.MetadataSet) -> trust.MetadataSet:
    """The newest set under a fresh timestamp by the key that was stolen."""
    snapshot = MetadataFile("snapshot", trust.parse(Snapshot, given.snapshot).signed.version, given.snapshot)
    version = trust.parse(Timestamp, given.timestamp).signed.version + 1
    stolen = Ed25519Signer(old.keys.timestamp)
    data = sign_timestamp(version, snapshot, stolen, now=instant(), life=timedelta(hours=2))
    return replace(given, timestamp=data)


async def test_v8_a_new_hub_takes_over_and_the_old_one_counts_for_nothing(installed: Cli, tmp_path: Path) -> None:
    """V8, V14: policy, locks and documents arrive as they were signed, floors only rise, the old key signs no more."""
    old, first = installed.api, (installed.home / "root.json").read_bytes()
    shutil.copytree(STARTER, tmp_path / "bundles")
    cell = file_in(tmp_path, CELL)
    await installed("lock", "cluster/eu-9", "--reason", "stolen", "--signed")
    (before,) = json.loads((await installed("apply", "-f", cell, "-e", "dev", "-o", "json")).stdout)
    seen = await served(old.services.policy, first)
    floors = trust.accept(trust.verify_set(seen), PolicyFloors(), instant())
    async with new_hub(tmp_path) as new:
        told = await play(installed, new, new.names(tmp_path, installed.home))
        now = await served(new.api.services.policy, first)
        parsed = trust.verify_set(now)
        after = trust.accept(parsed, floors, instant())
        assert parsed.root.roles[Timestamp.type].keyids == [new.key_ids["timestamp"]]
        assert all(after.roles[role].version > floors.roles[role].version for role in floors.roles)
        assert {path: info.hashes for path, info in parsed.targets.targets.items()} == {
            path: info.hashes for path, info in trust.verify_set(seen).targets.targets.items()
        }
        revoked = await new.api.services.policy.revocations()
        assert [f"{lock.kind}/{lock.subject}" for lock in revoked.locks] == ["cluster/eu-9"]

        # The very deployment of before, at its sequence: nothing was signed anew for it.
        item = await new.api.store.desired.get("eu-1", CellKey("shop", "cart", "dev"))
        assert item is not None
        assert item.deployment_digest == before["deployment"]
        assert "delivered-again" in told["apply --file"]

        # What an agent is told to trust is the new authority alone, and so is what an auditor compares with.
        values = yaml.safe_load((installed.home / "join-eu-1-values.yaml").read_text())
        assert authority_keyids(values["hub"]["ca"].encode()) == (new.key_ids["hub-ca"],)
        checks = {line["id"]: line["status"] for line in json.loads(told["check"])["checks"]}
        assert (checks["trust/audit-key"], checks["policy/published"]) == ("ok", "ok")

        # The thief: what the old key signs verifies no more, and the set of before is below every floor.
        with pytest.raises(CellwardError, match=r"\[?policy/unverified|does not verify"):
            trust.verify_set(set_by_old_key(old, now))
        with pytest.raises(CellwardError) as refused:
            trust.accept(trust.verify_set(set_by_old_key(old, seen)), after, instant())
        assert refused.value.code == "policy/rollback"


async def test_no_key_is_trusted_because_a_hub_shows_it(installed: Cli, tmp_path: Path) -> None:
    """V15: a key id that is not the shown key's ends the command; nothing is proposed, and trust.yaml stays."""
    other = spki_digest(spki_of(hub_keys().timestamp))
    out, before = tmp_path / "proposal.json", (installed.home / "trust.yaml").read_bytes()
    for words in (("upgrade", "--timestamp", other, "--out", str(out)), ("hub", "--tree-head", other)):
        refused = await installed("trust", *words, code=2)
        assert "the hub shows another" in refused.stderr
        assert spki_digest(spki_of(installed.api.keys.timestamp if words[0] == "upgrade" else
                                   installed.api.keys.tree_head)) in refused.stderr  # fmt: skip
    assert not out.exists()
    assert (installed.home / "trust.yaml").read_bytes() == before
    rows = json.loads((await installed("trust", "hub", "-o", "json")).stdout)
    rows = rows["items"] if isinstance(rows, dict) else rows
    assert [row["here"] for row in rows] == ["the newest root names it", "trust.yaml names it", "given at login"]


async def test_an_empty_hub_is_given_exactly_what_was_signed(installed: Cli, tmp_path: Path) -> None:
    """Without bundles, or with others than were signed, nothing is kept and nothing handed over; then it goes on."""
    shutil.copytree(STARTER, tmp_path / "bundles")
    file, record = str(tmp_path / "proposal.json"), installed.home / "policy-record.json"
    async with new_hub(tmp_path) as new:
        names = new.names(tmp_path, installed.home)
        for line in commands(GUIDE):
            if line.startswith(("login", "init", "trust upgrade", "trust sign")):
                await installed(*filled(line, names))
        before = record.read_bytes()
        bare = await installed("trust", "submit", file, code=2)
        assert "Give --bundles" in bare.stderr
        (rule,) = sorted((tmp_path / "bundles").rglob("*.rego"))[:1]
        text = rule.read_text()
        rule.write_text(text + "# another commit\n")
        changed = await installed("trust", "submit", file, "--bundles", str(tmp_path / "bundles"), code=2)
        assert "was signed with other bytes" in changed.stderr
        rule.write_text(text)
        (tmp_path / "other.yaml").write_text("bindings: [{name: x, bundle: starter, selector: {all: true}}]\n")
        words = ("--bundles", str(tmp_path / "bundles"), "--bindings", str(tmp_path / "other.yaml"))
        bound = await installed("trust", "submit", file, *words, code=2)
        assert "bindings/bindings.json was signed with other bytes" in bound.stderr
        assert record.read_bytes() == before
        assert await new.api.services.policy.fetch("snapshot", None) is None
        await installed("trust", "submit", file, *words[:2])
        assert await new.api.services.policy.fetch("snapshot", None) is not None
