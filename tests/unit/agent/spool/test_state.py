"""Opening the state and comparing it with its anchor (V1, V16)."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.link.desired import REVISION
from agent.spool.floors import reconcile
from agent.spool.interfaces import AnchorState, Finding, FloorsCopy
from agent.spool.state import ANCHOR_CONDITION, AnchorKeeper, OpenedState, open_state
from cellward.documents.floors import Floor
from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from cellward.runtime.health import HealthRegistry
from cellward.wire.codec import DesiredItem
from tests.fakes.anchor import FakeAnchor
from tests.fakes.clock import ManualClock

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
D1, D2 = "sha256:" + "1" * 64, "sha256:" + "2" * 64


#: Floors of a policy, and a key that is out of use.
POLICY: dict[str, Any] = {"roles": {"snapshot": {"version": 7, "signed": D1}}, "keys": {"1" * 64: "retired"}}


async def reopen(directory: Path, anchor: FakeAnchor | None) -> OpenedState:
    """Open the state of a test."""
    return await open_state(directory, clock=ManualClock(), anchor=anchor)


def keeper_of(opened: OpenedState, anchor: FakeAnchor) -> AnchorKeeper:
    """Keep the copy of an opened state."""
    return AnchorKeeper(opened.db, anchor, ManualClock(), HealthRegistry(ManualClock()), 10)


async def test_first_start_makes_a_uid_and_anchors_it_without_a_finding(tmp_path: Path) -> None:
    """V1: a new agent is not a broken one."""
    anchor = FakeAnchor()
    opened = await reopen(tmp_path, anchor)
    assert opened.findings == ()
    assert anchor.state == AnchorState(opened.db.uid, 1, 0)
    await opened.db.close()


async def test_a_restart_keeps_uid_epoch_and_floors(tmp_path: Path) -> None:
    """V1: a restart loses nothing and is no finding, even when the anchor lags behind."""
    anchor = FakeAnchor()
    first = await reopen(tmp_path, anchor)
    await first.db.floors.set("shop", "cart", "dev", Floor(3, D1))
    await first.db.floors.set("shop", "cart", "dev", Floor(4, D2))
    await first.db.close()
    again = await reopen(tmp_path, anchor)
    assert again.findings == ()
    assert (again.db.uid, again.db.epoch) == (first.db.uid, 1)
    assert await again.db.floors.get("shop", "cart", "dev") == Floor(4, D2)
    await again.db.close()


async def test_empty_state_with_an_anchor_is_a_finding_and_a_new_epoch(tmp_path: Path) -> None:
    """V1: a lost volume does not pass for a new agent, and the uid is kept."""
    anchor = FakeAnchor(AnchorState("uid-1", 4, 17))
    opened = await reopen(tmp_path, anchor)
    assert [finding.code for finding in opened.findings] == ["spool/state-missing"]
    assert (opened.db.uid, opened.db.epoch) == ("uid-1", 5)
    assert anchor.state is not None
    assert anchor.state.epoch == 5
    await opened.db.close()


async def test_older_state_is_a_finding_by_floors_and_by_epoch(tmp_path: Path) -> None:
    """V1: a volume set back to an older copy is noticed although it is consistent in itself."""
    anchor, copy = FakeAnchor(), tmp_path / "copy"
    live = tmp_path / "live"
    first = await reopen(live, anchor)
    await first.db.close()
    shutil.copytree(live, copy)
    second = await reopen(live, anchor)
    await second.db.floors.set("shop", "cart", "dev", Floor(9, D1))
    anchor.state = await second.db.position()
    await second.db.close()
    restored = await reopen(copy, anchor)
    assert [finding.code for finding in restored.findings] == ["spool/state-older"]
    assert restored.db.epoch == 2
    assert await restored.db.floors.get("shop", "cart", "dev") == Floor(9, D1)
    await restored.db.close()


async def test_v1_floors_outlive_a_lost_volume_and_a_lost_secret(tmp_path: Path) -> None:
    """The higher of both wins, whichever was emptied, and each loss is a finding; then both are whole again."""
    anchor, live = FakeAnchor(), tmp_path / "live"
    first = await reopen(live, anchor)
    await first.db.floors.set("shop", "cart", "dev", Floor(9, D1, NOW))
    await first.db.policy_floors.set(POLICY)
    await keeper_of(first, anchor).save_floors()
    await first.db.close()
    shutil.rmtree(live)
    second = await reopen(live, anchor)
    assert [finding.code for finding in second.findings] == ["spool/state-missing"]
    assert await second.db.floors.get("shop", "cart", "dev") == Floor(9, D1, NOW)
    assert await second.db.policy_floors.get() == POLICY
    await second.db.close()
    assert anchor.state is not None
    anchor.state = replace(anchor.state, floors=FloorsCopy())
    third = await reopen(live, anchor)
    assert {finding.code for finding in third.findings} == {"spool/state-missing", "spool/floors-copy-lower"}
    assert anchor.state is not None
    assert anchor.state.floors.cells == {CellKey("shop", "cart", "dev"): Floor(9, D1, NOW)}
    assert anchor.state.floors.policy == POLICY
    await third.db.close()


async def test_v1_one_lower_floor_in_the_copy_is_a_finding(tmp_path: Path) -> None:
    """Somebody who can write the Secret takes nothing away unseen, not of one cell and not of the policy."""
    for number, (lower, text) in enumerate(
        (
            ({"cells": {}}, "shop/cart/dev"),
            ({"policy": None}, "policy"),
            ({"policy": {**POLICY, "keys": {}}}, "policy"),
            ({"policy": {**POLICY, "roles": {"snapshot": {"version": 6, "signed": D1}}}}, "policy"),
        )
    ):
        anchor, place = FakeAnchor(), tmp_path / str(number)
        opened = await reopen(place, anchor)
        await opened.db.floors.set("shop", "cart", "dev", Floor(9, D1))
        await opened.db.policy_floors.set(POLICY)
        await keeper_of(opened, anchor).save_floors()
        await opened.db.close()
        assert anchor.state is not None
        anchor.state = replace(anchor.state, floors=replace(anchor.state.floors, **lower))  # type: ignore[arg-type]
        again = await reopen(place, anchor)
        assert [finding.code for finding in again.findings] == ["spool/floors-copy-lower"]
        assert text in again.findings[0].reason
        await again.db.close()


async def test_v1_policy_floors_that_cannot_be_read_are_a_finding(tmp_path: Path) -> None:
    """Whatever became of them here, what the copy holds is in force again, and it is told."""
    anchor = FakeAnchor()
    first = await reopen(tmp_path, anchor)
    await first.db.policy_floors.set(POLICY)
    await keeper_of(first, anchor).save_floors()
    await first.db.policy_floors.set({"roles": "none"})
    await first.db.close()
    again = await reopen(tmp_path, anchor)
    assert [finding.code for finding in again.findings] == ["spool/state-older"]
    assert await again.db.policy_floors.get() == POLICY
    await again.db.close()


async def test_v1_two_documents_of_one_sequence_are_a_finding(tmp_path: Path) -> None:
    """State and copy name different documents: the state's stays, and it is told."""
    anchor = FakeAnchor()
    first = await reopen(tmp_path, anchor)
    await first.db.floors.set("shop", "cart", "dev", Floor(9, D1))
    await keeper_of(first, anchor).save_floors()
    await first.db.close()
    assert anchor.state is not None
    anchor.state = replace(anchor.state, floors=FloorsCopy({CellKey("shop", "cart", "dev"): Floor(9, D2)}))
    again = await reopen(tmp_path, anchor)
    assert [finding.code for finding in again.findings] == ["spool/floors-differ"]
    assert await again.db.floors.get("shop", "cart", "dev") == Floor(9, D1)
    await again.db.close()


async def test_v1_stopped_between_state_and_copy_is_no_finding(tmp_path: Path) -> None:
    """A kill in the middle of an acceptance is nobody's attack; the copy catches up at the start."""
    anchor = FakeAnchor()
    first = await reopen(tmp_path, anchor)
    await first.db.floors.set("shop", "cart", "dev", Floor(8, D1))
    await keeper_of(first, anchor).save_floors()
    await first.db.floors.set("shop", "cart", "dev", Floor(9, D2))
    await first.db.close()
    again = await reopen(tmp_path, anchor)
    assert again.findings == ()
    assert anchor.state is not None
    assert anchor.state.floors.cells[CellKey("shop", "cart", "dev")] == Floor(9, D2)
    await again.db.close()


async def test_many_acceptances_are_served_by_few_writes(tmp_path: Path) -> None:
    """Each returns when its floor is in the copy; they do not each wait for a write of their own."""
    anchor = FakeAnchor()
    opened = await reopen(tmp_path, anchor)
    keeper, before = keeper_of(opened, anchor), anchor.saves

    async def accept(number: int) -> None:
        await opened.db.floors.set("shop", f"c{number}", "dev", Floor(1, D1))
        await keeper.save_floors()
        assert anchor.state is not None
        assert CellKey("shop", f"c{number}", "dev") in anchor.state.floors.cells

    await asyncio.gather(*(accept(number) for number in range(50)))
    assert anchor.saves - before < 25
    anchor.error = OSError("connection refused")
    await keeper.save_floors()
    await opened.db.floors.set("shop", "c0", "dev", Floor(2, D1))
    with pytest.raises(OSError, match="refused"):
        await keeper.save_floors()
    await opened.db.close()


floors_of = st.dictionaries(
    st.sampled_from([CellKey("a", "b", name) for name in "cde"]),
    st.builds(Floor, st.integers(1, 4), st.sampled_from([D1, D2])),
)


@given(floors_of, floors_of, floors_of)
def test_v1_the_higher_of_both_wins(
    here: dict[CellKey, Floor], copy: dict[CellKey, Floor], saved: dict[CellKey, Floor]
) -> None:
    """Whatever was lost on either side: nothing falls, and what was saved once and is missing now is told."""
    copied = {key: floor.sequence for key, floor in saved.items()}
    found = reconcile(here, copied, copy)
    after = {**here, **found.raised}
    for key in here.keys() | copy.keys():
        highest = max(side[key].sequence for side in (here, copy) if key in side)
        assert after[key].sequence == highest
    assert all(key not in here or floor.sequence > here[key].sequence for key, floor in found.raised.items())
    assert set(found.lower) == {key for key in saved if key not in copy or copy[key].sequence < copied[key]}
    assert all(here[key].sequence == copy[key].sequence and here[key] != copy[key] for key in found.differ)


async def test_a_missing_anchor_is_a_finding_only_after_one_was_saved(tmp_path: Path) -> None:
    """V1: a crash before the first save is not a finding; a deleted Secret is."""
    none_yet = await reopen(tmp_path, None)
    await none_yet.db.close()
    first = await reopen(tmp_path, FakeAnchor())
    assert first.findings == ()
    await first.db.close()
    again = await reopen(tmp_path, FakeAnchor())
    assert [finding.code for finding in again.findings] == ["spool/anchor-missing"]
    assert again.db.epoch == 2
    await again.db.close()


async def test_findings_survive_a_crash_before_they_were_chained(tmp_path: Path) -> None:
    """V13: a finding is durable with the epoch it made, so a crash right after cannot hide it."""
    anchor = FakeAnchor(AnchorState("uid-1", 1, 5))
    first = await reopen(tmp_path, anchor)
    await first.db.close()
    again = await reopen(tmp_path, anchor)
    assert [finding.code for finding in again.findings] == ["spool/state-missing"]
    assert again.db.epoch == 2
    await again.db.close()


async def test_state_of_another_cluster_is_refused_and_untouched(tmp_path: Path) -> None:
    """A uid is never reused: a foreign volume is refused before anything in it changes."""
    first = await reopen(tmp_path, FakeAnchor())
    await first.db.close()
    with pytest.raises(CellwardError) as caught:
        await reopen(tmp_path, FakeAnchor(AnchorState("other", 1, 0)))
    assert caught.value.code == "spool/foreign-state"
    again = await reopen(tmp_path, None)
    assert again.db.epoch == 1
    await again.db.close()


async def test_an_anchor_that_does_not_answer_changes_nothing(tmp_path: Path) -> None:
    """Without an answer it cannot be known whether the state is older, so nothing is opened."""
    anchor = FakeAnchor()
    anchor.error = OSError("connection refused")
    with pytest.raises(OSError, match="refused"):
        await reopen(tmp_path, anchor)
    assert not (tmp_path / "state.db").exists()


async def test_a_damaged_file_is_set_aside_and_the_agent_starts(tmp_path: Path) -> None:
    """V16: garbage does not kill the agent, is not deleted, and is a finding."""
    garbage = b"not a database " * 1000
    (tmp_path / "state.db").write_bytes(garbage)
    opened = await reopen(tmp_path, None)
    assert [finding.code for finding in opened.findings] == ["spool/state-corrupt"]
    assert [path.read_bytes() for path in tmp_path.glob("state.db.damaged-*")] == [garbage]
    await opened.db.close()


async def test_two_processes_cannot_open_one_directory(tmp_path: Path) -> None:
    """Two writers would fork the audit chain."""
    first = await reopen(tmp_path, None)
    with pytest.raises(CellwardError) as caught:
        await reopen(tmp_path, None)
    assert caught.value.code == "spool/locked"
    await first.db.close()
    second = await reopen(tmp_path, None)
    await second.db.close()


async def test_a_lock_that_cannot_be_taken_is_not_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume without locks, or a system without memory for one, is said as it is: there is nobody to look for."""

    def none_left(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none_left)
    with pytest.raises(CellwardError) as caught:
        await reopen(tmp_path, None)
    assert caught.value.code == "spool/unwritable"


async def test_a_newer_file_is_refused_and_untouched(tmp_path: Path) -> None:
    """A downgrade of the agent does not half understand its state."""
    first = await reopen(tmp_path, None)
    await first.db.close()
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(CellwardError) as caught:
        await reopen(tmp_path, None)
    assert caught.value.code == "spool/too-new"


async def test_the_keeper_saves_changes_only_and_survives_an_outage(tmp_path: Path) -> None:
    """The anchor follows the state; an API server that is down is a condition and nothing else."""
    clock, anchor = ManualClock(), FakeAnchor()
    opened = await reopen(tmp_path, anchor)
    health = HealthRegistry(clock)
    keeper = AnchorKeeper(opened.db, anchor, clock, health, 10)
    await keeper.save()
    saves = anchor.saves
    await keeper.save()
    assert anchor.saves == saves
    await opened.db.floors.set("shop", "cart", "dev", Floor(1, D1))
    anchor.error = OSError("connection refused")
    await keeper.save()
    assert (health.get()[0].name, health.get()[0].ok) == (ANCHOR_CONDITION, False)
    anchor.error = None
    await keeper.save()
    assert health.get()[0].ok
    assert anchor.state == await opened.db.position()
    await opened.db.close()


async def test_older_state_is_a_finding_by_records_alone(tmp_path: Path) -> None:
    """V1: a volume set back to before some records were written is noticed although no floor differs."""
    anchor = FakeAnchor()
    first = await reopen(tmp_path, anchor)
    position = await first.db.position()
    await first.db.close()
    anchor.state = replace(position, seq=position.seq + 3)
    restored = await reopen(tmp_path, anchor)
    assert [finding.code for finding in restored.findings] == ["spool/state-older"]
    await restored.db.close()


async def test_v1_v14_older_state_forgets_what_is_on_record_of_cells(tmp_path: Path) -> None:
    """V14: floors and accepted documents stay; what would be made true again by repair, or taken up again, goes."""
    anchor = FakeAnchor()
    first = await reopen(tmp_path, anchor)
    item = DesiredItem(1, "shop", "cart", "dev", D1)
    await first.db.inventory.put("shop--cart--dev", {"version": "1"})
    await first.db.items.put(item)
    await first.db.accepted.put(item)
    await first.db.meta.set({REVISION: "7"})
    await first.db.floors.set("shop", "cart", "dev", Floor(3, D1))
    position = await first.db.position()
    await first.db.close()
    again = await reopen(tmp_path, anchor)
    assert await again.db.inventory.namespaces() == ("shop--cart--dev",), "nothing is older: nothing is forgotten"
    assert await again.db.items.list() == (item,)
    await again.db.close()
    anchor.state = replace(position, seq=position.seq + 1)
    restored = await reopen(tmp_path, anchor)
    assert await restored.db.inventory.namespaces() == ()
    assert await restored.db.items.list() == ()
    assert await restored.db.meta.get(REVISION) is None, "the hub is asked for all of them"
    assert await restored.db.accepted.list() == (item,)
    assert await restored.db.floors.get("shop", "cart", "dev") == Floor(3, D1)
    await restored.db.close()


async def test_v1_v14_a_floor_that_is_raised_forgets_every_cell(tmp_path: Path) -> None:
    """V4, V14: a floor says that the volume is old; what was closed since, of other cells too, has none."""
    anchor = FakeAnchor()
    first = await reopen(tmp_path, anchor)
    for cell in ("cart", "stock"):
        await first.db.inventory.put(f"shop--{cell}--dev", {"version": "1"})
        await first.db.floors.set("shop", cell, "dev", Floor(3, D1))
    position = await first.db.position()
    await first.db.close()
    raised = {**position.floors.cells, CellKey("shop", "cart", "dev"): Floor(4, D2)}
    anchor.state = replace(position, floors=replace(position.floors, cells=raised))
    again = await reopen(tmp_path, anchor)
    assert [finding.code for finding in again.findings] == ["spool/state-older"]
    assert await again.db.inventory.namespaces() == ()
    await again.db.close()


async def test_v1_v4_raised_policy_floors_forget_every_cell(tmp_path: Path) -> None:
    """V4: a newer signed set may isolate a cell; a record of before would open it again."""
    anchor = FakeAnchor()
    first = await reopen(tmp_path, anchor)
    await first.db.inventory.put("shop--cart--dev", {"version": "1"})
    position = await first.db.position()
    await first.db.close()
    anchor.state = replace(position, floors=replace(position.floors, policy=POLICY))
    again = await reopen(tmp_path, anchor)
    assert [finding.code for finding in again.findings] == ["spool/state-older"]
    assert await again.db.inventory.namespaces() == ()
    await again.db.close()


async def test_v1_v4_a_closing_is_durable_with_its_record_and_fewer_are_older(tmp_path: Path) -> None:
    """V4: what the anchor counts and the volume has no record of is told once, and then counted on both sides."""
    anchor = FakeAnchor()
    first = await reopen(tmp_path, anchor)
    keeper = keeper_of(first, anchor)
    first.db.closings.add("shop--cart--dev")
    await first.db.inventory.put("shop--stock--dev", {"version": "1"})
    await keeper.save_floors()
    assert anchor.state is not None
    assert anchor.state.closings == 1
    await first.db.close()
    second = await reopen(tmp_path, anchor)
    assert [finding.code for finding in second.findings] == ["spool/state-older"], "the record of cart was not saved"
    assert await second.db.inventory.namespaces() == ()
    second.db.closings.add("shop--cart--dev")
    await second.db.inventory.put("shop--cart--dev", {"version": "2"})
    await keeper_of(second, anchor).save_floors()
    assert anchor.state.closings == 2
    await second.db.close()
    third = await reopen(tmp_path, anchor)
    assert await third.db.inventory.namespaces() == ("shop--cart--dev",)
    assert third.db.epoch == second.db.epoch
    await third.db.close()


async def test_v1_state_from_before_a_policy_update_is_older(tmp_path: Path) -> None:
    """V1: policy floors are folded into what the anchor knows."""
    anchor = FakeAnchor()
    opened = await reopen(tmp_path / "a", anchor)
    await opened.db.policy_floors.set({"roles": {"targets": {"version": 1, "signed": "x"}}, "keys": {}})
    await opened.db.close()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    opened = await reopen(tmp_path / "a", anchor)
    await opened.db.policy_floors.set({"roles": {"targets": {"version": 2, "signed": "y"}}, "keys": {}})
    anchor.state = await opened.db.position()
    await opened.db.close()
    opened = await reopen(tmp_path / "b", anchor)
    assert [finding.code for finding in opened.findings] == ["spool/state-older"]
    await opened.db.close()


async def test_v1_finding_made_after_opening_begins_an_epoch(tmp_path: Path) -> None:
    """V1: once; an epoch without a record is new enough."""
    opened = await reopen(tmp_path, FakeAnchor())
    await opened.db.begin_epoch([Finding("policy/state-older", "gone")])
    assert opened.db.epoch == 1
    await opened.db._writer.run(lambda connection: connection.execute("UPDATE agent SET seq=3").rowcount)
    await opened.db.begin_epoch([Finding("policy/state-older", "gone again")])
    assert opened.db.epoch == 2
    head = await opened.db.audit.head()
    assert (head.epoch, head.seq) == (2, 0)
    await opened.db.close()
    again = await reopen(tmp_path, None)
    assert [finding.reason for finding in again.findings] == ["gone", "gone again"], "kept until they are chained"
    await again.db.close()
