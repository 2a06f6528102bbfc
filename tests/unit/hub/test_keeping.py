"""Backups of a running hub, the look for damage, and the restore: checked first, refused while a hub runs (V1, V13)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import stat
from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from cellward.runtime.clock import SystemClock
from hub.__main__ import main
from hub.app import open_hub
from hub.keeping import Keeping, archive, back_up, fsck, give_back, prune, restore
from hub.settings import HubSettings
from hub.store.links import PresenceRow, replica_lease
from hub.store.log import AuditEvent
from hub.store.sql import backup as backup_module
from hub.store.sql.backup import write_backup
from hub.store.sql.store import open_store
from hub.store.tokens import ApiTokenRow
from tests.fakes.postgres import Server, programs
from tests.fakes.refusals import refused
from tests.fakes.signed import new_root

ANY = {"enrolment": "127.0.0.1:0", "link": "127.0.0.1:0", "api": "127.0.0.1:0", "metrics": "127.0.0.1:0"}
NOW = SystemClock().now()


@pytest.fixture
def settings(tmp_path: Path) -> HubSettings:
    """A hub of its own, with a directory for backups."""
    (tmp_path / "backups").mkdir()
    given = {"data_dir": tmp_path / "data", "listen": ANY, "backup_dir": tmp_path / "backups", "log_level": "error"}
    return HubSettings.model_validate(given)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A process sets up logging for good; other tests must not write to its standard error."""
    yield
    structlog.reset_defaults()


async def records(settings: HubSettings) -> list[dict[str, Any]]:
    """The log as the next hub has it."""
    async with open_hub(settings) as hub:
        return [json.loads(found.record) for found in await hub.audit.tail(0, 1000)]


def event(name: str) -> AuditEvent:
    """Something to record."""
    return AuditEvent("ada", "lock.set", f"Cluster//{name}", "done")


async def test_a_backup_of_a_running_hub_is_one_moment_and_the_owners_alone(settings: HubSettings) -> None:
    """Writers go on while it is made; it holds what was committed before, whole, and nothing torn."""
    async with open_hub(settings) as hub:
        stop = asyncio.Event()

        async def write() -> int:
            number = 0
            while not stop.is_set():
                # Two rows in one transaction: a torn copy would have one of them.
                async def pair(tables: Any, number: int = number) -> None:
                    await tables.meta.put(f"a-{number}", b"x" * 1000)
                    await tables.meta.put(f"b-{number}", b"x" * 1000)

                await hub.store.transact(pair)
                number += 1
            return number

        writer = asyncio.create_task(write())
        try:
            while await hub.store.meta.get("b-20") is None:
                await asyncio.sleep(0)
            made = [await back_up(settings, settings.backup_dir / f"{number}.db") for number in range(3)]  # type: ignore[operator]
        finally:
            stop.set()
            written = await writer
    assert written > 20
    for one in made:
        file = Path(str(one["file"]))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert one["digest"] == f"sha256:{sha256(file.read_bytes()).hexdigest()}"
        with contextlib.closing(sqlite3.connect(file)) as copy:
            names = {row[0] for row in copy.execute("SELECT key FROM meta")}
        count = sum(name.startswith("a-") for name in names)
        assert count > 20
        assert sum(name.startswith("b-") for name in names) == count
    assert sorted(path.name for path in settings.backup_dir.iterdir()) == ["0.db", "1.db", "2.db"]  # type: ignore[union-attr]


async def test_v13_a_restored_hub_has_what_was_backed_up_and_says_that_it_was_restored(settings: HubSettings) -> None:
    """V1: a new history, so agents compare instead of resuming; join tokens are gone; the store before it is kept."""
    cell = CellKey("shop", "cart", "dev")
    async with open_hub(settings) as hub:
        await hub.store.clusters.create("eu-1", "ada")
        await hub.store.desired.upsert("eu-1", cell, "sha256:old")
        await hub.store.audit.put_events([event("before")])
        await hub.store.api_tokens.add(ApiTokenRow("h", "ci", "deployer", None))
        await hub.store.tokens.put("t", "eu-1", NOW + timedelta(minutes=30))
        await hub.audit.settle()
        for name in ("work", replica_lease("then")):
            await hub.store.leases.take(name, "then", timedelta(hours=1))
        await hub.store.links.opened([PresenceRow("eu-1", "then", "s-1", "b", NOW)])
        made = await back_up(settings, settings.backup_dir)
        await hub.store.desired.upsert("eu-1", cell, "sha256:new")
        await hub.store.audit.put_events([event("after")])
        await hub.audit.settle()
        epoch = hub.store.hub_epoch
        with pytest.raises(CellwardError) as caught:
            await restore(settings, Path(str(made["file"])))
        assert caught.value.code == "store/in-use"
        assert [item.deployment_digest for item in await hub.store.desired.items("eu-1")] == ["sha256:new"]
    said = await restore(settings, Path(str(made["file"])))
    assert said["apiTokensInForce"] == ["bootstrap-admin", "ci"]
    async with open_hub(settings) as hub:
        assert [item.deployment_digest for item in await hub.store.desired.items("eu-1")] == ["sha256:old"]
        assert hub.store.hub_epoch == said["hubEpoch"] != epoch
        # The processes of then are not there: nobody waits for the end of their leases, nor asks them for an agent.
        taken = await hub.store.leases.take("work", "now", timedelta(hours=1))
        assert taken is not None
        assert taken.token == 2
        assert await hub.store.links.live() == {}
        with pytest.raises(CellwardError) as caught:
            await hub.store.tokens.spend("t", "k", NOW)
        assert caught.value.code == "store/unknown-token"
    found = await records(settings)
    assert [(one["action"], one["object"], one["epoch"]) for one in found] == [
        ("lock.set", "Cluster//before", 1),
        ("hub.restore", "Hub", 2),
    ]
    assert found[1]["details"]["oldEpoch"] == "1"
    # What was replaced is a whole database with everything in it.
    kept = await open_store(f"sqlite:///{said['replaced']}")
    assert [item.deployment_digest for item in await kept.desired.items("eu-1")] == ["sha256:new"]
    assert await kept.audit.size() == 2
    await kept.close()
    assert sorted(path.name for path in settings.data_dir.glob("hub.db.restoring*")) == []


async def _damaged_record(file: Path) -> None:
    data = file.read_bytes()
    assert data.count(b"find-me") == 1
    file.write_bytes(data.replace(b"find-me", b"find-mf"))


async def _damaged_page(file: Path) -> None:
    data = bytearray(file.read_bytes())
    page = len(data) // 2 // 4096 * 4096
    data[page : page + 64] = b"\xa5" * 64
    file.write_bytes(bytes(data))


async def _short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4096])


async def _newer(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (_damaged_record, "store/damaged"),
        (_damaged_page, "store/damaged"),
        (_short, "store/damaged"),
        (_newer, "store/newer-schema"),
    ],
)
async def test_v13_a_backup_that_does_not_hold_replaces_nothing(settings: HubSettings, spoil: Any, code: str) -> None:
    """It is checked whole before anything changes: pages, schema, and every record by the log's own hashes."""
    async with open_hub(settings) as hub:
        await hub.store.audit.put_events([event("find-me")])
        await hub.audit.settle()
        for number in range(50):
            await hub.store.meta.put(f"key-{number}", b"x" * 4000)
    made = await back_up(settings, settings.backup_dir)
    file = Path(str(made["file"]))
    assert await fsck(settings, file) == await fsck(settings, None)
    await spoil(file)
    database = settings.data_dir / "hub.db"
    before = database.read_bytes()
    for attempt in (restore(settings, file), fsck(settings, file)):
        with pytest.raises(CellwardError) as caught:
            await attempt
        assert caught.value.code == code
    assert database.read_bytes() == before
    assert [path.name for path in settings.data_dir.glob("hub.db.re*")] == []


async def test_a_damaged_database_is_replaced_and_kept(settings: HubSettings) -> None:
    """What a restore is for: the hub's own file is no database any more, its write-ahead log is foreign to the new."""
    async with open_hub(settings) as hub:
        await hub.store.clusters.create("eu-1", "ada")
        made = await back_up(settings, settings.backup_dir)
    database = settings.data_dir / "hub.db"
    database.write_bytes(b"not a database" * 1000)
    (settings.data_dir / "hub.db-wal").write_bytes(b"stale")
    said = await restore(settings, Path(str(made["file"])))
    kept = Path(str(said["replaced"]))
    assert kept.read_bytes() == b"not a database" * 1000
    assert Path(f"{kept}-wal").read_bytes() == b"stale"
    async with open_hub(settings) as hub:
        assert [row.name for row in await hub.store.clusters.list()] == ["eu-1"]


async def test_a_lost_volume_is_restored_into_an_empty_directory(settings: HubSettings) -> None:
    """With the keys of before, which are not in the backup."""
    async with open_hub(settings) as hub:
        await hub.store.clusters.create("eu-1", "ada")
        made = await back_up(settings, settings.backup_dir)
    for path in settings.data_dir.glob("hub.db*"):
        path.unlink()
    assert (await restore(settings, Path(str(made["file"]))))["replaced"] == ""
    async with open_hub(settings) as hub:
        assert [row.name for row in await hub.store.clusters.list()] == ["eu-1"]


async def test_a_backup_overwrites_nothing_and_leaves_nothing_half(
    settings: HubSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is there stays; without room, or without a database, no part of a backup is left."""
    directory = settings.backup_dir
    assert directory is not None
    with pytest.raises(CellwardError) as caught:
        await back_up(settings, directory)
    assert caught.value.code == "store/unavailable"
    async with open_hub(settings):
        pass
    (directory / "mine").write_text("mine")
    with pytest.raises(CellwardError) as caught:
        await back_up(settings, directory / "mine")
    assert caught.value.code == "store/backup-exists"
    monkeypatch.setattr(backup_module, "SPARE", 2**60)
    with pytest.raises(CellwardError) as caught:
        await back_up(settings, directory)
    assert caught.value.code == "store/full"
    assert [path.name for path in directory.iterdir()] == ["mine"]
    assert (directory / "mine").read_text() == "mine"


async def test_v13_segments_are_archived_and_pruned_by_their_files(
    settings: HubSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a hub runs: each file once, and only what it is the export of is forgotten, with a record."""
    monkeypatch.setattr("hub.keeping.RECORDS", 256)
    directory = settings.backup_dir
    assert directory is not None
    root, _ = new_root()
    async with open_hub(settings) as hub:
        await hub.realm.adopt(root)
        await hub.store.audit.put_events([event(f"c-{number}") for number in range(600)])
        await hub.audit.settle()
        said = await archive(settings, directory)
        assert await archive(settings, directory) == said
        files = sorted(directory.iterdir())
        assert [file.name for file in files] == ["audit-segment-000000.ndjson", "audit-segment-000001.ndjson"]
        cut = directory / "cut"
        cut.write_bytes(files[0].read_bytes()[:-1])
        for wrong, code in [(cut, "audit/segment-differs"), (files[1], "audit/not-oldest-segment")]:
            with pytest.raises(CellwardError) as caught:
                await prune(settings, wrong)
            assert caught.value.code == code
        assert (await prune(settings, files[0]))["end"] == 256
        found = [json.loads(one.record) for one in await hub.audit.tail(0, 1000)]
        assert found[0]["object"] == "Cluster//c-255" or found[0]["seq"] == 257
        digest = sha256(files[0].read_bytes()).hexdigest()
        assert (found[-1]["action"], found[-1]["details"]["digest"]) == ("audit.prune", f"sha256:{digest}")
        files[1].write_bytes(b"mine")
        with pytest.raises(CellwardError) as caught:
            await archive(settings, directory)
        assert caught.value.code == "audit/segment-differs"
        assert files[1].read_bytes() == b"mine"
        assert (await fsck(settings, None))["auditRecords"] == await hub.store.audit.size()


async def test_v13_room_of_what_was_pruned_is_given_back_and_the_log_is_the_same(
    settings: HubSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V13: refused while a hub runs, and without room to write; then the file is small, and all of it fits."""
    monkeypatch.setattr("hub.keeping.RECORDS", 2048)
    assert settings.backup_dir is not None
    root, _ = new_root()
    async with open_hub(settings) as hub:
        await hub.realm.adopt(root)
        await hub.store.audit.put_events([event(f"c-{number}") for number in range(2100)])
        await hub.audit.settle()
        await archive(settings, settings.backup_dir)
        await prune(settings, settings.backup_dir / "audit-segment-000000.ndjson")
        epoch = hub.store.hub_epoch
        with pytest.raises(CellwardError) as caught:
            await give_back(settings, None)
        assert caught.value.code == "store/in-use"
    before = await fsck(settings, None)
    with monkeypatch.context() as small:
        small.setattr(backup_module, "SPARE", 2**60)
        with pytest.raises(CellwardError) as caught:
            await give_back(settings, None)
        assert caught.value.code == "store/full"
    said = await give_back(settings, None)
    file = settings.data_dir / "hub.db"
    assert said["bytesAfter"] == file.stat().st_size
    assert int(str(said["bytesBefore"])) > 2 * file.stat().st_size
    assert await fsck(settings, None) == before
    async with open_hub(settings) as hub:
        assert hub.store.hub_epoch == epoch
        found = [json.loads(one.record) for one in await hub.audit.tail(2048, 1000)]
    assert found[0]["seq"] == 2049
    assert (await fsck(settings, None))["auditRecords"] == 2048 + len(found) + 1


async def test_v13_fsck_of_a_running_hub_finds_what_was_flipped(settings: HubSettings) -> None:
    """Beside the hub, on the same file."""
    async with open_hub(settings) as hub:
        await hub.store.audit.put_events([event("find-me")])
        await hub.audit.settle()
        assert await fsck(settings, None) == {"pages": "pages fit together (quick_check)", "auditRecords": 1}
    await _damaged_record(settings.data_dir / "hub.db")
    async with open_hub(settings):
        with pytest.raises(CellwardError, match="record 0") as caught:
            await fsck(settings, None)
        assert caught.value.code == "store/damaged"


async def test_fsck_leaves_a_database_of_an_earlier_version_alone(settings: HubSettings) -> None:
    """The hub that wrote it may run on it."""
    async with open_hub(settings):
        pass
    with contextlib.closing(sqlite3.connect(settings.data_dir / "hub.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0007'")
    with pytest.raises(CellwardError) as caught:
        await fsck(settings, None)
    assert caught.value.code == "store/older-schema"


async def test_a_postgresql_database_is_checked_here_and_copied_by_its_own_tools(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pg_dump` makes a better backup than we would; the log's hashes are ours to check."""
    given = {"data_dir": tmp_path / "data", "listen": ANY, "database_url": await postgres.new()}
    settings = HubSettings.model_validate(given)
    async with open_hub(settings) as hub:
        # Its room is the server's: what is free where the hub has its keys says nothing of it.
        monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 1000, 0, 0, 0, 0, 0, 0, 255)))
        hub.intake.admit("eu-1", 1)
        await hub.store.audit.put_events([event("a")])
        await hub.audit.settle()
        found = await fsck(settings, None)
        assert found["auditRecords"] == 1
        assert "checksums" in str(found["pages"])
    for attempt in (back_up(settings, tmp_path), restore(settings, tmp_path / "x")):
        with pytest.raises(CellwardError) as caught:
            await attempt
        assert caught.value.code == "store/not-sqlite"


def _command(guide: str, program: str) -> str:
    """The command of the guide that runs a program."""
    (found,) = (line.strip()[2:] for line in guide.splitlines() if line.strip().startswith(f"$ {program} "))
    return found


async def test_v1_v6_v13_a_postgresql_database_is_restored_as_the_guide_says(postgres: Server, tmp_path: Path) -> None:
    """The guide's own commands, against a real server: what they bring is whole, and a new history begins (V1, V6)."""
    guide = Path("docs/how-to/back-up-and-restore.md").read_text()
    url = await postgres.new()
    name = f"{url.partition('?')[0].rpartition('/')[2]}_restored"
    fresh = postgres.url(name)
    urls = {"URL": url, "NEW_URL": fresh, "SERVER": postgres.url("postgres")}

    async def run(program: str) -> None:
        command = _command(guide, program).replace("hub_restored", name)
        found = {**os.environ, **urls, "PATH": f"{programs()}:{os.environ['PATH']}"}
        done = await asyncio.create_subprocess_shell(
            command, env=found, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await done.communicate()
        assert done.returncode == 0, (command, said)

    given = {"data_dir": tmp_path / "data", "listen": ANY, "log_level": "error"}
    async with open_hub(HubSettings.model_validate({**given, "database_url": url})) as hub:
        await hub.store.clusters.create("eu-1", "ada")
        await hub.store.tokens.put("t", "eu-1", NOW + timedelta(minutes=30))
        await hub.store.audit.put_events([event(f"before-{number}") for number in range(300)])
        await hub.audit.settle()
        await hub.store.leases.take(replica_lease("then"), "then", timedelta(hours=1))
        epoch = hub.store.hub_epoch
        # While the hub runs.
        await run("pg_dump")
        await hub.store.audit.put_events([event("after")])
        await hub.audit.settle()
    await run("createdb")
    await run("pg_restore")
    restored = HubSettings.model_validate({**given, "database_url": fresh})
    assert (await fsck(restored, None))["auditRecords"] == 300
    with pytest.raises(CellwardError) as caught:
        await restore(restored, None)
    assert caught.value.code == "store/in-use"
    # Time passes.
    await postgres.run("UPDATE leases SET expires = 0", name)
    said = await restore(restored, None)
    assert (said["auditRecords"], said["apiTokensInForce"]) == (300, ["bootstrap-admin"])
    async with open_hub(restored) as hub:
        assert [row.name for row in await hub.store.clusters.list()] == ["eu-1"]
        assert hub.store.hub_epoch == said["hubEpoch"] != epoch
        with pytest.raises(CellwardError) as caught:
            await hub.store.tokens.spend("t", "k", NOW)
        assert caught.value.code == "store/unknown-token"
        await hub.audit.settle()
        last = (await hub.audit.tail(300, 1000))[0]
    assert json.loads(last.record)["action"] == "hub.restore"
    assert (await fsck(restored, None))["auditRecords"] == 301


async def test_the_api_writes_backups_where_the_settings_say_and_nowhere_else(settings: HubSettings) -> None:
    """Without a directory it is refused; one after the other otherwise."""
    async with open_hub(settings) as hub:
        with pytest.raises(CellwardError) as caught:
            await Keeping(settings.database, None, hub.store, hub.clock).back_up()
        assert caught.value.code == "store/no-backup-directory"
        made = await Keeping(settings.database, settings.backup_dir, hub.store, hub.clock).back_up()
    assert made.file.parent == settings.backup_dir
    assert made.file.name == f"hub-{made.file.name[4:-3]}.db"


def test_the_commands_print_json_and_exit_by_the_class_of_what_was_wrong(
    settings: HubSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """V15: the result on standard output, message, code and hint on standard error."""

    async def start() -> None:
        async with open_hub(settings):
            pass

    asyncio.run(start())
    capsys.readouterr()
    config = tmp_path / "hub.yaml"
    config.write_text(yaml.safe_dump({"data_dir": str(settings.data_dir), "log_level": "error"}))
    target = tmp_path / "one.db"
    assert main(["backup", "--config", str(config), str(target)]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(target)
    assert main(["backup", "--config", str(config), str(target)]) != 0
    assert "[store/backup-exists]" in capsys.readouterr().err
    for words in (["fsck"], ["fsck", str(target)], ["restore", str(target)]):
        assert main([words[0], "--config", str(config), *words[1:]]) == 0
        assert json.loads(capsys.readouterr().out)["auditRecords"] == 0


def test_what_is_not_a_backup_is_refused(settings: HubSettings, tmp_path: Path) -> None:
    """A bare copy of a database in use lacks what is in its write-ahead log."""
    (tmp_path / "copy.db").write_bytes(b"")
    (tmp_path / "copy.db-wal").write_bytes(b"x")
    with pytest.raises(CellwardError) as caught:
        asyncio.run(restore(settings, tmp_path / "copy.db"))
    assert caught.value.code == "store/unavailable"
    with refused("store/unavailable"):
        write_backup(settings.database, tmp_path, NOW)
