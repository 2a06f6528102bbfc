"""Policy forged and replayed by whoever has the hub: targets by a wrong key, and old targets under a new timestamp."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets

from cellward.documents.dsse import Ed25519Signer
from cellward.policy.publisher import MetadataFile, sign_timestamp
from cellward.policy.signing import TufSigner
from cellward.policy.trust import BASE_FIELD, floor_of
from cli.home import Home
from cli.keys import load_key
from tools.demo.narrate import StepFailedError, wait_for
from tools.demo.scenes.main_job import allowed_one, publish, refuse_one, wait_policy
from tools.demo.scenes.stolen_hub import Loot
from tools.demo.stage import CLUSTERS, Stage
from tools.demo.summary import Summary

#: Longer than what is in force, so that a forgery that got through would be seen.
_LONGER = timedelta(days=365)


@dataclass(frozen=True)
class Refused:
    """With which code, and with which word in the message, every agent must refuse something planted."""

    code: str
    about: str

    def by_all(self, found: Iterable[Mapping[str, str]]) -> bool:
        """Whether every cluster says exactly that; ``found``: cluster, code and message of each refusal."""
        return {one["cluster"] for one in found if self._meant(one)} == set(CLUSTERS)

    def _meant(self, one: Mapping[str, str]) -> bool:
        return one["code"] == self.code and re.search(rf"\b{self.about}\b", one["message"]) is not None


@dataclass(frozen=True)
class Planted:
    """Metadata to be slipped into the hub's database, and how it must be refused."""

    files: Sequence[MetadataFile]
    refused: Refused


def forge_targets(
    root: bytes, targets: bytes, snapshot: bytes, signer: Ed25519Signer, publisher: Ed25519Signer
) -> tuple[MetadataFile, MetadataFile]:
    """Make the next targets and the snapshot over them; returns snapshot, targets.

    The targets' signature stands under the policy key's own id and is made by ``signer``; everything else is as it
    must be for an agent to accept it, if ``publisher`` is the real one.
    """
    forged = Metadata[Targets].from_bytes(targets)
    base = floor_of(forged.signed)
    forged.signed.unrecognized_fields[BASE_FIELD] = {"version": base.version, "digest": base.digest}
    forged.signed.version += 1
    forged.signed.expires += _LONGER
    forged.sign(TufSigner(signer))
    (signature,) = forged.signatures.values()
    signature.keyid = Metadata[Root].from_bytes(root).signed.roles[Targets.type].keyids[0]
    forged.signatures = {signature.keyid: signature}
    file = MetadataFile(Targets.type, forged.signed.version, forged.to_bytes())
    over = Metadata[Snapshot].from_bytes(snapshot)
    over.signed.version += 1
    over.signed.meta["targets.json"] = MetaFile.from_data(file.version, file.data, ["sha256"])
    over.sign(TufSigner(publisher))
    return MetadataFile(Snapshot.type, over.signed.version, over.to_bytes()), file


class Forger:
    """Makes and plants policy metadata with every key the hub has, and with keys of its own."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._loot = Loot(stage.hub_data, (stage.directory / "hub-passphrase").read_bytes().strip())
        self._cursor = stage.api.records()[1]

    def forged(self) -> Planted:
        """The newest targets with another expiry by a wrong key; snapshot and timestamp over them are truly signed.

        As if the publisher's key had been stolen too: nothing but the targets' own signature stands in the way.
        """
        return self._forged(load_key(Home(self._stage.home), "publisher", None), "targets")

    def forged_with_snapshot(self) -> Planted:
        """The same with all that a hub has: the snapshot is by a wrong key too."""
        return self._forged(Ed25519Signer.generate(), "snapshot")

    def _forged(self, publisher: Ed25519Signer, about: str) -> Planted:
        root, targets, snapshot = (self._newest(role).data for role in ("root", "targets", "snapshot"))
        files = forge_targets(root, targets, snapshot, Ed25519Signer.generate(), publisher)
        return self._under_new_timestamp(*files, refused=Refused("policy/unverified", about))

    def replayed(self) -> Planted:
        """The very first snapshot, truly signed, under a newer timestamp that the hub's real key signs."""
        with self._loot.database() as database:
            row = database.execute(
                "SELECT version, data FROM tuf_metadata WHERE role='snapshot' ORDER BY version LIMIT 1"
            ).fetchone()
        if row is None or self._newest("snapshot").version == row[0]:
            raise StepFailedError("there is no older snapshot to replay")
        refused = Refused("policy/rollback", "snapshot")
        return self._under_new_timestamp(MetadataFile("snapshot", row[0], row[1]), refused=refused)

    def refused(self, planted: Planted) -> bool:
        """Plant it, wait until both agents say that they refuse it, take it out again; whether all is as it was."""
        before, refused = self._versions(), planted.refused
        with self._planted(planted):
            what = f"both agents to refuse with {refused.code} for the {refused.about}"
            try:
                wait_for(what, lambda: refused.by_all(self._conditions()), 60, self._stage.narrator)
                held = True
            except StepFailedError:
                held = False
            for text in sorted({f"{one['code']}: {one['message']}" for one in self._conditions()}):
                self._stage.narrator.step(f"agents refuse with {text}")
        return held and self._versions() == before

    def recorded(self, refused: Refused) -> bool:
        """Whether both agents put it on record since this began; they record one refusal a minute and count more."""

        def found() -> bool:
            records = self._stage.api.records(self._cursor)[0]
            denied = [one for one in records if (one["action"], one["decision"]) == ("policy.refuse", "deny")]
            return refused.by_all({**one, "message": one["reason"]} for one in denied)

        try:
            return wait_for(f"both agents to record {refused.code}", found, 30, self._stage.narrator)
        except StepFailedError:
            return False

    def _conditions(self) -> list[dict[str, str]]:
        """What each agent says is wrong with its policy now: the last refresh was refused, and why."""
        found = [one for cluster in self._stage.api.get("/clusters")["items"] for one in cluster["conditions"]]
        return [one for one in found if one["name"] == "policy-set" and not one["ok"]]

    def _versions(self) -> dict[str, tuple[int, int]]:
        clusters = self._stage.api.get("/clusters")["items"]
        return {one["name"]: (one["policy"]["targets"], one["policy"]["snapshot"]) for one in clusters}

    def _under_new_timestamp(self, snapshot: MetadataFile, *others: MetadataFile, refused: Refused) -> Planted:
        version = self._newest("timestamp").version + 1
        data = sign_timestamp(version, snapshot, self._loot.timestamp(), now=datetime.now(UTC), life=timedelta(hours=2))
        return Planted([*others, snapshot, MetadataFile("timestamp", version, data)], refused)

    def _newest(self, role: str) -> MetadataFile:
        with self._loot.database() as database:
            row: Any = database.execute(
                "SELECT version, data FROM tuf_metadata WHERE role=? ORDER BY version DESC LIMIT 1", (role,)
            ).fetchone()
        return MetadataFile(role, row[0], row[1])

    @contextmanager
    def _planted(self, planted: Planted) -> Iterator[None]:
        with self._loot.database() as database:
            new = [
                file
                for file in planted.files
                if database.execute(
                    "INSERT OR IGNORE INTO tuf_metadata (role, version, data) VALUES (?, ?, ?)",
                    (file.role, file.version, file.data),
                ).rowcount
            ]
        try:
            yield
        finally:
            with self._loot.database() as database:
                for file in new:
                    database.execute("DELETE FROM tuf_metadata WHERE role=? AND version=?", (file.role, file.version))


def forged_policy(stage: Stage, summary: Summary) -> None:
    """Try all three; after each key the good set still decides, and a later good one is accepted and decides."""
    narrator = stage.narrator
    forger = Forger(stage)
    with narrator.guarded("targets signed by a wrong key"):
        planted = forger.forged()
        held = forger.refused(planted)
        held = forger.recorded(planted.refused) and held
        held = forger.refused(forger.forged_with_snapshot()) and held
        _conclude(stage, summary, "forged_bundle_refused", "targets signed by a wrong key", held)
    what = "older targets under a newer timestamp by the hub's real key"
    with narrator.guarded(what):
        _conclude(stage, summary, "replayed_bundle_refused", what, forger.refused(forger.replayed()))


def _conclude(stage: Stage, summary: Summary, key: str, what: str, held: bool) -> None:
    """See that the good set still decides, and that a later good one is accepted; fill in the key."""
    held = _still_denies(stage) and held
    held = _later_one_decides(stage) and held
    summary.put(key, held)
    stage.narrator.verdict(held, f"{what}: refused; a later good set is accepted", f"{what}: not refused as it must be")


def _still_denies(stage: Stage) -> bool:
    """The set in force refuses what it must: a cell of the examples, signed again."""
    entry = refuse_one(stage, "privileged.yaml")
    return bool(entry["refused_by"] == [entry["meant"]])


def _later_one_decides(stage: Stage) -> bool:
    """Publish a set with other bindings; both agents take it, and it allows and denies what it must."""
    before = stage.api.get("/policy")["published"]
    published = publish(stage, tolerate_unknown=True)
    wait_policy(stage, published["snapshotVersion"])
    newer = bool(published["targetsVersion"] > before["targetsVersion"])
    runs = allowed_one(stage)
    denied = _still_denies(stage)
    allowed = runs()
    stage.narrator.step(
        f"targets {published['targetsVersion']} published and in force; a good cell is "
        f"{'allowed' if allowed else 'not allowed'}, a privileged one {'refused' if denied else 'not refused'}"
    )
    return newer and allowed and denied
