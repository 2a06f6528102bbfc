"""The composed hub in this process, over a real store and real listeners: what starting and stopping promise."""

from __future__ import annotations

import asyncio
import resource
import socket
from pathlib import Path

import pytest

from cellward.errors import CellwardError
from hub.api.auth import hash_token
from hub.app import OPEN_FILES, open_hub, room_for_connections
from hub.settings import HubSettings
from hub.store.tokens import ApiTokenRow
from hub.sync.limits import SyncLimits

ANY = {"enrolment": "127.0.0.1:0", "link": "127.0.0.1:0", "api": "127.0.0.1:0", "metrics": "127.0.0.1:0"}


def settings(directory: Path, **listen: str) -> HubSettings:
    """A hub of its own that listens where there is room."""
    return HubSettings.model_validate({"data_dir": directory / "data", "listen": {**ANY, **listen}})


def test_open_files_are_raised_as_far_as_allowed() -> None:
    """The bounds on connections mean nothing where descriptors run out before; what is higher already stays."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = SyncLimits()
    assert limits.link_connections + limits.enrolment_connections < OPEN_FILES
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
        room_for_connections()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(before[1], OPEN_FILES), before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_the_admin_token_in_the_file_is_the_only_one_in_force(tmp_path: Path) -> None:
    """Removing the file and starting again takes a stolen token out of force; nobody else's token is touched."""
    file = tmp_path / "data" / "admin.token"
    async with open_hub(settings(tmp_path)) as hub:
        first = file.read_text().strip()
        await hub.store.api_tokens.add(ApiTokenRow(hash_token("of-a-machine"), "ci", "deployer"))
    file.unlink()
    async with open_hub(settings(tmp_path)) as hub:
        second = file.read_text().strip()
        assert second != first
        assert await hub.store.api_tokens.get(hash_token(first)) is None
        for token, role in ((second, "admin"), ("of-a-machine", "deployer")):
            row = await hub.store.api_tokens.get(hash_token(token))
            assert row is not None
            assert (row.role, row.expires_at) == (role, None)


async def test_secrets_that_a_mount_gave_to_a_group_are_private_again(tmp_path: Path) -> None:
    """V5: a second start on a volume with an fsGroup has the same token and keys, readable by the owner alone."""
    async with open_hub(settings(tmp_path)) as hub:
        authority = hub.keys.hub_ca.pem
    token = (tmp_path / "data" / "admin.token").read_text()
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0o660)
    (tmp_path / "data" / "keys").chmod(0o2770)
    async with open_hub(settings(tmp_path)) as hub:
        assert hub.keys.hub_ca.pem == authority
    assert (tmp_path / "data" / "admin.token").read_text() == token
    secret = [path for path in files if path.suffix == ".pem" or path.name in {"admin.token", "passphrase"}]
    assert len(secret) > 5
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}


@pytest.mark.parametrize("which", ["enrolment", "link", "api", "metrics"])
async def test_a_port_in_use_is_an_error_with_a_code_and_a_next_step(tmp_path: Path, which: str) -> None:
    """V15: a second hub on one machine is told which address it was, not shown a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(CellwardError) as caught:
            async with open_hub(settings(tmp_path, **{which: address})) as hub:
                await hub.run(asyncio.Event())
    assert caught.value.code == "link/cannot-listen"
    assert address in caught.value.message
    assert caught.value.hint
