"""What an administrator gets from a hub's machine: the authority, the first token, and a backup through the API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
import yaml

from cellward.errors import CellwardError
from cellward.runtime.clock import SystemClock
from hub.__main__ import main
from hub.api.auth import hash_token
from hub.app import Hub, open_hub
from hub.authority.keystore import KeyStore
from hub.handing import admin_token, ask_backup, authority
from hub.settings import HubSettings
from tests.fakes.signed import new_root
from tools.stack.ports import free_ports


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A process sets up logging for good; other tests must not write to its standard error."""
    yield
    structlog.reset_defaults()


def settings_of(directory: Path) -> HubSettings:
    """A hub with a directory for backups, at a port that is free."""
    (directory / "backups").mkdir()
    api = f"127.0.0.1:{free_ports(1)[0]}"
    listen = {"enrolment": "127.0.0.1:0", "link": "127.0.0.1:0", "api": api, "metrics": ""}
    given = {"data_dir": directory / "data", "listen": listen, "backup_dir": directory / "backups"}
    return HubSettings.model_validate({**given, "log_level": "error"})


@asynccontextmanager
async def running(settings: HubSettings) -> AsyncIterator[Hub]:
    """A hub that serves, with a realm, until the context ends."""
    stop = asyncio.Event()
    async with open_hub(settings) as hub:
        await hub.realm.adopt(new_root()[0])
        serving = asyncio.create_task(hub.run(stop))
        try:
            yield hub
        finally:
            stop.set()
            await serving


async def test_what_a_person_logs_in_with_is_read_on_the_hubs_machine(tmp_path: Path) -> None:
    """The authority is that of the hub's certificates, the token the one in force."""
    settings = settings_of(tmp_path)
    async with open_hub(settings) as hub:
        assert await authority(settings, None) == hub.keys.hub_ca.pem.decode()
        row = await hub.store.api_tokens.get(hash_token((await admin_token(settings, None)).strip()))
        assert row is not None
        assert row.role == "admin"


def test_both_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is the file to log in with, and nothing else."""
    settings = settings_of(tmp_path)
    file = tmp_path / "hub.yaml"
    file.write_text(yaml.safe_dump(json.loads(settings.model_dump_json())))
    assert main(["ca", "--config", str(file)]) == 2
    assert "hub/file-not-there" in capsys.readouterr().err
    (tmp_path / "data").mkdir()
    KeyStore(tmp_path / "data" / "keys", b"secret").open(SystemClock().now())
    (tmp_path / "data" / "admin.token").write_text("cwt_of-somebody\n")
    assert main(["ca", "--config", str(file)]) == 0
    assert capsys.readouterr().out == (tmp_path / "data" / "keys" / "hub-ca.crt.pem").read_text()
    assert main(["admin-token", "--config", str(file)]) == 0
    assert capsys.readouterr().out == "cwt_of-somebody\n"


async def test_a_running_hub_writes_the_backup_it_is_asked_for(tmp_path: Path) -> None:
    """Whoever asks has the CA and a token, and nothing of the hub's data; what is told is what was written."""
    settings = settings_of(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with running(settings) as hub:
        (elsewhere / "ca.crt").write_bytes(hub.keys.hub_ca.pem)
        (elsewhere / "token").write_text(await admin_token(settings, None))
        asks = HubSettings.model_validate(
            {
                "data_dir": elsewhere / "none",
                "advertise": {"api": settings.api_address},
                "api_ca_file": elsewhere / "ca.crt",
                "admin_token_file": elsewhere / "token",
            }
        )
        said = await _once_it_listens(asks)
        (file,) = (tmp_path / "backups").iterdir()
        assert said["name"] == file.name
        with contextlib.closing(sqlite3.connect(file)) as copy:
            assert copy.execute("PRAGMA quick_check").fetchone() == ("ok",)
        (elsewhere / "token").write_text("cwt_wrong")
        with pytest.raises(CellwardError) as refused:
            await ask_backup(asks, None)
        assert refused.value.code == "hub/not-done"
        assert "HTTP 401" in refused.value.message
        (elsewhere / "ca.crt").write_bytes(hub.keys.agent_ca.pem)
        with pytest.raises(CellwardError) as unknown:
            await ask_backup(asks, None)
        assert unknown.value.code == "hub/not-asked"
    assert not (elsewhere / "none").exists()
    assert len(list((tmp_path / "backups").iterdir())) == 1


async def _once_it_listens(asks: HubSettings) -> dict[str, object]:
    while True:
        try:
            return dict(await ask_backup(asks, None))
        except CellwardError as error:
            if error.code != "hub/not-asked":
                raise
        await asyncio.sleep(0.01)
