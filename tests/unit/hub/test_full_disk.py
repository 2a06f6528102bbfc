"""A hub on a full disk, beside a second hub, or over damaged pages: it starts where it can, and says what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cellward.errors import CellwardError
from cellward.runtime.health import Condition
from hub.app import Hub, open_hub
from hub.audit.damage import RECENT
from hub.settings import HubSettings
from hub.store.log import AuditEvent
from hub.store.sql.store import open_store
from hub.upkeep import refresh, verify

ANY = {"enrolment": "127.0.0.1:0", "link": "127.0.0.1:0", "api": "127.0.0.1:0", "metrics": "127.0.0.1:0"}


def settings(directory: Path) -> HubSettings:
    """A hub of its own."""
    return HubSettings.model_validate({"data_dir": directory / "data", "listen": ANY})


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 16 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system of its own needs root and mount")
    yield place
    subprocess.run(["umount", "-l", place], check=True)  # noqa: S607 - the system's own


@contextlib.contextmanager
def filled(place: Path) -> Iterator[None]:
    """Take all space until the context ends."""
    weight = place / "weight"
    with weight.open("wb", buffering=0) as file:
        for size in (1024**2, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)
    try:
        yield
    finally:
        weight.unlink()


@contextlib.asynccontextmanager
async def looked_after(hub: Hub) -> AsyncIterator[None]:
    """Run the housekeeping."""
    stop = asyncio.Event()
    task = asyncio.create_task(refresh(hub, stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def until(hub: Hub, name: str, code: str) -> Condition:
    """Wait for a condition."""
    async with asyncio.timeout(30):
        while True:
            found = next((one for one in hub.health.get() if one.name == name), None)
            if found is not None and found.code == code:
                return found
            await asyncio.sleep(0.02)


async def test_v16_it_starts_on_a_full_disk_says_so_and_goes_on_with_space(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost: what was there is read, `check` is red with the code, and with space it is green again."""
    monkeypatch.setattr("hub.upkeep.REFRESH_SECONDS", 0.05)
    async with open_hub(settings(small)) as hub:
        await hub.store.clusters.create("eu-1", "ada")
        async with looked_after(hub):
            await until(hub, "store", "")
    assert (small / "data" / "hub.db.ballast").stat().st_blocks * 512 >= 2 * 1024**2
    with filled(small):
        async with open_hub(settings(small)) as hub, looked_after(hub):
            said = await until(hub, "store", "store/full")
            assert not said.ok
            assert [row.name for row in await hub.store.clusters.list()] == ["eu-1"]
            (small / "weight").write_bytes(b"")
            await until(hub, "store", "")
            await hub.store.clusters.create("eu-2", "ada")
        (small / "weight").touch()
    assert (small / "data" / "hub.db.ballast").exists()


async def test_v16_a_disk_that_becomes_full_is_told_and_keeps_what_there_is(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change is refused whole; reads go on, and the ballast stays for the next start."""
    monkeypatch.setattr("hub.upkeep.REFRESH_SECONDS", 0.05)
    async with open_hub(settings(small)) as hub, looked_after(hub):
        await hub.store.meta.put("kept", b"1")
        await until(hub, "store", "")
        with filled(small):
            with pytest.raises(CellwardError) as caught:
                await _write_much(hub)
            assert caught.value.code == "store/full"
            await until(hub, "store", "store/full")
            assert await hub.store.meta.get("kept") == b"1"
        await until(hub, "store", "")
        await hub.store.meta.put("more", b"1")


async def test_a_full_disk_without_ballast_is_an_error_with_a_code(small: Path) -> None:
    """There is nothing to give up: told, not a traceback."""
    await (await open_store(f"sqlite:///{small / 'hub.db'}")).close()
    with filled(small), pytest.raises(CellwardError) as caught:
        await open_store(f"sqlite:///{small / 'hub.db'}")
    assert caught.value.code == "store/full"


async def test_a_second_hub_on_one_sqlite_database_is_refused(tmp_path: Path) -> None:
    """As long as the first one runs; a hub that has ended, however, is in nobody's way."""
    async with open_hub(settings(tmp_path)):
        with pytest.raises(CellwardError) as caught:
            async with open_hub(settings(tmp_path)):
                pass
        assert caught.value.code == "store/in-use"
    async with open_hub(settings(tmp_path)):
        pass


async def test_v16_flipped_pages_are_found_and_told(tmp_path: Path) -> None:
    """Nobody reads that part today: it is found all the same, after a start."""
    async with open_hub(settings(tmp_path)) as hub:
        for number in range(200):
            await hub.store.meta.put(f"key-{number}", b"x" * 4000)
        await _looked(hub)
        assert next(one for one in hub.health.get() if one.name == "store-pages").ok
    file = tmp_path / "data" / "hub.db"
    data = bytearray(file.read_bytes())
    page = len(data) // 2 // 4096 * 4096
    data[page : page + 64] = os.urandom(64)
    file.write_bytes(bytes(data))
    async with open_hub(settings(tmp_path)) as hub:
        await _looked(hub)
        said = next(one for one in hub.health.get() if one.name == "store-pages")
    assert (said.ok, said.code) == (False, "store/damaged")


@pytest.mark.parametrize("recent", [True, False])
async def test_v13_a_flipped_byte_of_an_audit_record_is_told(tmp_path: Path, recent: bool) -> None:
    """No page is broken by it, so only the log's hashes tell: at the start for the newest, soon after it for all."""
    filler = AuditEvent("ada", "lock.set", "Cluster//filler", "done")
    async with open_hub(settings(tmp_path)) as hub:
        await hub.store.audit.put_events([AuditEvent("ada", "lock.set", "Cluster//find-me", "done")])
        await hub.store.audit.put_events([filler] * (0 if recent else RECENT + 256))
        await hub.audit.settle()
    file = tmp_path / "data" / "hub.db"
    data = file.read_bytes()
    assert data.count(b"find-me") == 1
    file.write_bytes(data.replace(b"find-me", b"find-mf"))
    async with open_hub(settings(tmp_path)) as hub:
        said = next(one for one in hub.health.get() if one.name == "audit-log")
        assert said.code == ("store/damaged" if recent else "")
        await _looked(hub)
        said = await until(hub, "audit-log", "store/damaged")
        assert next(one for one in hub.health.get() if one.name == "store-pages").ok
    assert not said.ok
    assert "record 0" in said.message


async def _write_much(hub: Hub) -> None:
    for number in range(10_000):
        await hub.store.meta.put(f"n{number}", b"x" * 4096)


async def _looked(hub: Hub) -> None:
    stop = asyncio.Event()
    task = asyncio.create_task(verify(hub, stop))
    async with asyncio.timeout(20):
        while not any(one.name == "store-pages" for one in hub.health.get()):
            await asyncio.sleep(0.01)
    stop.set()
    await task
