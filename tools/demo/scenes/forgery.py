"""Policy forged and replayed by whoever has the hub: targets by a wrong key, and old targets under a new timestamp."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets

from cellward.policy.publisher import MetadataFile, sign_timestamp
from tools.demo.narrate import StepFailedError, wait_for
from tools.demo.scenes.main_job import wait_policy
from tools.demo.scenes.stolen_hub import Loot
from tools.demo.stage import CLUSTERS, Stage
from tools.demo.summary import Summary


@dataclass(frozen=True)
class Planted:
    """Metadata to be slipped into the hub's database."""

    files: Sequence[MetadataFile]


class Forger:
    """Makes and plants policy metadata with every key the hub has, and with keys of its own."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._loot = Loot(stage.hub_data, (stage.directory / "hub-passphrase").read_bytes().strip())

    def forged(self) -> Planted:
        """The newest targets with another expiry, signed by a wrong key; the timestamp over them is the hub's own."""
        wrong = CryptoSigner.generate_ed25519()
        targets = Metadata[Targets].from_bytes(self._newest("targets").data)
        targets.signed.version += 1
        targets.signed.expires += timedelta(days=365)
        targets.sign(wrong)
        snapshot = Metadata[Snapshot].from_bytes(self._newest("snapshot").data)
        snapshot.signed.version += 1
        snapshot.signed.meta["targets.json"] = MetaFile(targets.signed.version)
        snapshot.sign(wrong)
        return self._under_new_timestamp(
            MetadataFile("snapshot", snapshot.signed.version, snapshot.to_bytes()),
            [MetadataFile("targets", targets.signed.version, targets.to_bytes())],
        )

    def replayed(self) -> Planted:
        """The very first snapshot, truly signed, under a newer timestamp that the hub's real key signs."""
        with self._loot.database() as database:
            row = database.execute("SELECT data FROM tuf_metadata WHERE role='snapshot' AND version=1").fetchone()
        if row is None or self._newest("snapshot").version < 2:
            raise StepFailedError("there is no older snapshot to replay")
        return self._under_new_timestamp(MetadataFile("snapshot", 1, row[0]), [])

    def refused(self, planted: Planted) -> bool:
        """Plant it, wait until both agents refuse and record it, take it out again."""
        before = {one["name"]: one["policy"]["snapshot"] for one in self._stage.api.get("/clusters")["items"]}
        _, cursor = self._stage.api.records()
        with self._planted(planted):
            codes = wait_for("both agents to refuse", lambda: self._refusals(cursor), 60, self._stage.narrator)
        self._stage.narrator.step(f"both agents refuse: {', '.join(sorted(set(codes.values())))}")
        after = {one["name"]: one["policy"]["snapshot"] for one in self._stage.api.get("/clusters")["items"]}
        return before == after

    def _refusals(self, cursor: str) -> dict[str, str] | None:
        records, _ = self._stage.api.records(cursor)
        found = {
            record["cluster"]: record["code"]
            for record in records
            if record["action"] == "policy.refuse" and record["decision"] == "deny"
        }
        return found if set(found) == set(CLUSTERS) else None

    def _under_new_timestamp(self, snapshot: MetadataFile, others: list[MetadataFile]) -> Planted:
        version = self._newest("timestamp").version + 1
        data = sign_timestamp(version, snapshot, self._loot.timestamp(), now=datetime.now(UTC), life=timedelta(hours=2))
        return Planted([*others, snapshot, MetadataFile("timestamp", version, data)])

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
    """Try both; afterwards the good set still decides, and a later good one is accepted."""
    narrator = stage.narrator
    forger = Forger(stage)
    for key, what, make in (
        ("forged_bundle_refused", "targets signed by a wrong key", forger.forged),
        ("replayed_bundle_refused", "older targets under a newer timestamp by the hub's real key", forger.replayed),
    ):
        with narrator.guarded(what):
            held = forger.refused(make())
            held = held and _still_decides(stage) and _later_one_accepted(stage)
            summary.put(key, held)
            narrator.verdict(
                held, f"{what}: refused; a later good set is accepted", f"{what}: not refused as it must be"
            )


def _still_decides(stage: Stage) -> bool:
    """The set in force still refuses what it must: a cell of the examples, signed anew."""
    from tools.demo.scenes.main_job import refuse_one

    entry = refuse_one(stage, "privileged.yaml")
    return bool(entry["refused_by"] == [entry["meant"]])


def _later_one_accepted(stage: Stage) -> bool:
    refreshed = stage.cli.json("policy", "refresh")
    wait_policy(stage, refreshed["snapshotVersion"])
    return True
