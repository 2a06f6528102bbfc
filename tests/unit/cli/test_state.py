"""The local state: what a number stands for, what survives a crash, and what a repair may not do."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cellward.documents.model import Release, build_document
from cellward.documents.numbers import milliseconds
from cellward.documents.revocations import Revocations
from cellward.errors import CellwardError
from cellward.policy.floors import PolicyFloors
from cellward.policy.floors import RoleFloor as PolicyFloor
from cli.state import store as store_module
from cli.state.memory import bound, delivered, faults, newest, numbers, remember
from cli.state.model import FORMAT, Record, RoleFloor, State
from cli.state.policy import with_locks, with_policy
from cli.state.records import digest_of, record_of_payload
from cli.state.repair import repaired
from cli.state.store import Store

REALM = "sha256:" + "a" * 64
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
MS = round(NOW.timestamp() * 1000)
KEY = ("shop", "cart")
#: Id of a key that is locked.
LOCKED = "5" * 64


def digest(text: str) -> str:
    """A digest that stands for a document."""
    return digest_of(text.encode())


def deployment(sequence: int, name: str, *environments: str, at: datetime = NOW) -> Record:
    """A record of a Deployment."""
    return Record(
        digest=digest(name), kind="deployment", project="shop", cell="cart", environments=environments or ("dev",),
        sequence=sequence, issued_at=at, not_after=at + timedelta(days=30), release=digest("release"),
    )  # fmt: skip


def release(version: str) -> bytes:
    """A whole payload of a release."""
    _, payload = build_document(
        Release(realm=REALM, project="shop", cell="cart", version=version, owner="o", spec={}, issued_at=NOW)
    )
    return payload


def test_v1_a_number_stands_for_one_document() -> None:
    """V1: a second document with a number used is refused; the same one again changes nothing."""
    state = remember(State(realm=REALM), deployment(5, "one"))
    assert remember(state, deployment(5, "one")) == state
    with pytest.raises(CellwardError) as caught:
        remember(state, deployment(5, "other"))
    assert caught.value.code == "cli/number-used"


def test_newest_is_by_environment() -> None:
    """What runs in one environment says nothing of another."""
    state = remember(State(realm=REALM), deployment(5, "a", "dev"), deployment(6, "b", "prod"))
    assert [getattr(newest(state, KEY, name, NOW), "sequence", 0) for name in ("dev", "prod", "test")] == [5, 6, 0]


def test_v1_a_number_beyond_the_clock_counts_for_nothing_and_is_reported() -> None:
    """V1: a number more than ten minutes ahead is a clock fault: not newest, reported, taken out by a repair only."""
    ahead = deployment(MS + 600_000, "ahead")
    state = remember(State(realm=REALM), deployment(MS, "right"), ahead)
    found = newest(state, KEY, "dev", NOW)
    assert found is not None
    assert found.sequence == MS
    assert {fault.number for fault in faults(state, NOW)} == {MS + 600_000}
    assert ahead.sequence in numbers(state, KEY)


def test_sequences_outlive_their_records() -> None:
    """However many documents came since, what is newest in an environment and the highest number are known."""
    state = remember(State(realm=REALM), deployment(1, "prod", "prod"))
    for number in range(2, 80):
        state = remember(state, deployment(number, f"dev-{number}", "dev", at=NOW + timedelta(seconds=number)))
    assert len(state.documents) < 40
    assert getattr(newest(state, KEY, "prod", NOW + timedelta(hours=1)), "sequence", 0) == 1
    assert max(numbers(state, KEY)) == 79


def test_state_is_read_back_as_written(tmp_path: Path) -> None:
    """Everything survives a round trip, private to the user."""
    store = Store(tmp_path, REALM)
    payload = release("1.0")
    with store.change() as change:
        name = change.put(payload)
        record = record_of_payload(payload, REALM)
        assert record is not None
        change.state = delivered(remember(change.state, record, deployment(5, "x")), [name])
        change.state = change.state.model_copy(update={"floors": {"snapshot": RoleFloor(version=7, digest=name)}})
        kept = change.state
    assert Store(tmp_path, REALM).read() == kept
    assert store.payload(name) == payload
    assert store.file.stat().st_mode & 0o077 == 0
    assert store.directory.stat().st_mode & 0o077 == 0


def test_v16_what_raises_changes_nothing(tmp_path: Path) -> None:
    """V16: a command that fails in between leaves the state as it was, and the lock free."""
    store = Store(tmp_path, REALM)

    def half() -> None:
        with store.change() as change:
            change.state = remember(change.state, deployment(5, "x"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert store.read() == State(realm=REALM)
    with store.change():
        pass


def test_two_commands_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process holds the lock a change waits, and gives up with a code."""
    monkeypatch.setattr(store_module, "PATIENCE", 0.2)
    code = (
        "import sys; from pathlib import Path; from cli.state.store import Store\n"
        f"with Store(Path({str(tmp_path)!r}), {REALM!r}).locked(): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(CellwardError) as caught, Store(tmp_path, REALM).change():
            pass
        assert caught.value.code == "cli/state-busy"
        other.stdin.close()
    with Store(tmp_path, REALM).change():
        pass


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "cli/bad-state"),
        ("[]", "cli/bad-state"),
        ('{"format": 5}', "cli/state-format"),
        (f'{{"format": 1, "realm": "{REALM}", "realm": "{REALM}"}}', "cli/bad-state"),
        (f'{{"format": 1, "realm": "{REALM}", "more": 1}}', "cli/bad-state"),
        (f'{{"format": 1, "realm": "sha256:{"b" * 64}"}}', "cli/foreign-state"),
        (f'{{"format": 1, "realm": "{REALM}", "sequences": {{"a/b": 1.5}}}}', "cli/bad-state"),
    ],
)
def test_v16_a_state_that_is_none_is_refused(tmp_path: Path, text: str, code: str) -> None:
    """V16: half files, other formats and other realms are an error with a next step, never an empty state."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "state.json").write_text(text)
    with pytest.raises(CellwardError) as caught:
        Store(tmp_path, REALM).read()
    assert caught.value.code == code
    assert caught.value.hint


def test_a_state_of_the_format_before_is_read(tmp_path: Path) -> None:
    """What an older version wrote is taken over, and written as this version writes."""
    store = Store(tmp_path, REALM)
    store.directory.mkdir()
    store.file.write_text(json.dumps({"format": 1, "realm": REALM, "sequences": {"shop/cart": 5}}))
    with store.change() as change:
        assert change.state.sequences == {"shop/cart": 5}
        change.state = change.state.model_copy(update={"locks": {f"key/{LOCKED}": 7}})
    assert json.loads(store.file.read_text())["format"] == FORMAT
    assert store.read().locked_keys == (LOCKED,)


@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
def test_v1_floors_of_format_3_keep_their_versions(tmp_path: Path, damaged: bool) -> None:
    """V1: their digests were those of files; which document it was, the next one accepted of that version says."""
    store = Store(tmp_path, REALM)
    store.directory.mkdir()
    floors = {"root": {"version": 2, "digest": digest("file")}, "keyring": {"version": 7, "digest": digest("file")}}
    store.file.write_text(json.dumps({"format": 3, "realm": REALM, "floors": floors, **({"x": 1} if damaged else {})}))
    state = repaired(store, REALM, NOW).state if damaged else store.read()
    assert {role: (floor.version, floor.digest) for role, floor in state.floors.items()} == {
        "root": (2, ""), "keyring": (7, ""),
    }  # fmt: skip
    with store.locked():
        store.write(state)
    seen = PolicyFloors({"root": PolicyFloor(2, digest("signed")), "keyring": PolicyFloor(6, digest("older"))})
    after = with_policy(store.read(), seen)
    assert after.floors["root"] == RoleFloor(version=2, digest=digest("signed"))
    assert after.floors["keyring"] == RoleFloor(version=7, digest="")
    assert with_policy(after, PolicyFloors({"root": PolicyFloor(2, digest("other"))})).floors == after.floors


@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
def test_locked_keys_of_format_2_stay_locked(tmp_path: Path, damaged: bool) -> None:
    """They may be ones that no hub has taken: only a set above the one accepted last may lift them."""
    store = Store(tmp_path, REALM)
    store.directory.mkdir()
    floors = {"keyring": {"version": 7, "digest": "sha256:" + "1" * 64}}
    before = {"format": 2, "realm": REALM, "floors": floors, "lockedKeys": [LOCKED, *([3] if damaged else [])]}
    store.file.write_text(json.dumps(before))
    state = repaired(store, REALM, NOW).state if damaged else store.read()
    assert state.locks == {f"key/{LOCKED}": 8}
    nothing = Revocations(REALM)
    assert with_locks(state, nothing, 7).locked_keys == (LOCKED,)
    assert with_locks(state, nothing, 8).locked_keys == ()


def test_a_repair_keeps_locks_and_makes_a_faulty_version_one_that_can_be_reached(tmp_path: Path) -> None:
    """The newest version of each lock in any index; what cannot be a lock is left out."""
    store = Store(tmp_path, REALM)
    ahead, other = milliseconds(NOW) + 10**9, "cluster/eu-1"
    for locks in ({f"key/{LOCKED}": 5, other: 9}, {f"key/{LOCKED}": 4, other: ahead, "serial/1f": 2}):
        with store.change() as change:
            change.state = change.state.model_copy(update={"locks": locks})
    value = json.loads(store.file.read_text())
    value["locks"] |= {"key/short": 3, "cluster/us-1": "many"}
    store.file.write_text(json.dumps(value))
    found = repaired(store, REALM, NOW)
    assert found.state.locks == {f"key/{LOCKED}": 5, other: bound(NOW), "serial/1f": 2}
    assert any(f"lock of {other}" in line for line in found.done)


@pytest.mark.parametrize("damage", ["half", "gone", "field"])
def test_v1_a_repair_loses_no_number_and_no_floor(tmp_path: Path, damage: str) -> None:
    """V1: whatever happened to the index, numbers used stay used, floors stay, payloads on disk are known again."""
    store, payload = Store(tmp_path, REALM), release("1.0")
    with store.change() as change:
        change.put(payload)
        record = record_of_payload(payload, REALM)
        assert record is not None
        change.state = remember(change.state, record, deployment(5, "lost payload"))
        floor = RoleFloor(version=7, digest=digest("snapshot"))
        change.state = change.state.model_copy(update={"floors": {"snapshot": floor}, "keys": {"k": "retired"}})
    with store.change() as change:
        change.state = change.state.model_copy(update={"keys": {"k": "compromised"}})
    if damage == "half":
        store.file.write_bytes(store.file.read_bytes()[:40])
    elif damage == "gone":
        store.file.write_bytes(b"")
    else:
        value = json.loads(store.file.read_text())
        store.file.write_text(json.dumps({**value, "documents": [{"digest": 1}, *value["documents"]]}))
    found = repaired(store, REALM, NOW)
    assert found.done
    assert found.state.sequences == {"shop/cart": 5}
    assert found.state.floors == {"snapshot": floor}
    assert found.state.keys["k"] == ("compromised" if damage == "field" else "retired")
    assert [one.digest for one in found.state.documents] == [record.digest]


def test_v1_a_repair_takes_the_higher_of_both(tmp_path: Path) -> None:
    """V1: the newer index may be the lower one, where somebody wrote into it; no number and no floor falls by that."""
    store = Store(tmp_path, REALM)
    store.directory.mkdir()
    for file, number, more in ((store.previous, 9, {}), (store.file, 5, {"damage": True})):
        floor = {"version": number, "digest": digest(str(number))}
        value = {"format": FORMAT, "realm": REALM, "sequences": {"shop/cart": number}, "floors": {"root": floor}}
        value["record"] = digest("record") if number == 9 else "sha256:damaged"
        file.write_text(json.dumps({**value, "keys": {"k": "compromised" if number == 9 else "retired"}, **more}))
    found = repaired(store, REALM, NOW).state
    assert found.sequences == {"shop/cart": 9}
    assert found.floors == {"root": RoleFloor(version=9, digest=digest("9"))}
    assert found.record == digest("record")
    assert found.keys == {"k": "compromised"}


def test_v1_a_repair_that_is_interrupted_can_be_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """V1: the index before is all that is left, so a damaged one never takes its place."""
    store = Store(tmp_path, REALM)
    for number in (5, 6):
        with store.change() as change:
            change.state = remember(change.state, deployment(number, str(number)))
    store.file.write_bytes(b"{")
    found = repaired(store, REALM, NOW)

    def crash(*_: object) -> None:
        raise OSError("no space")

    with store.locked(), monkeypatch.context() as patch:
        patch.setattr(store_module, "write_atomic", crash)
        with pytest.raises(OSError, match="no space"):
            store.write(found.state)
    assert repaired(store, REALM, NOW).state.sequences == found.state.sequences == {"shop/cart": 5}


def test_a_repair_takes_clock_faults_out(tmp_path: Path) -> None:
    """What a wrong clock left is gone afterwards, and what was right before it counts."""
    store = Store(tmp_path, REALM)
    with store.change() as change:
        change.state = remember(change.state, deployment(MS, "right"), deployment(MS * 2, "wrong"))
    found = repaired(store, REALM, NOW)
    assert found.state.sequences == {"shop/cart": MS}
    assert not faults(found.state, NOW)
