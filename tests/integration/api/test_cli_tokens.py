"""API tokens from the command line: made, used, revoked, each time on record."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fakes.command_line import Cli


async def test_a_token_of_a_role_is_made_used_and_revoked(installed: Cli, tmp_path: Path) -> None:
    """An admin makes a viewer; the viewer reads, exports, and changes nothing; once revoked it is nobody."""
    made = await installed("tokens", "create", "--name", "vera", "--role", "viewer", "--expires", "12h")
    token = made.stdout.strip()
    assert token.startswith("cwapi_")
    assert token not in made.stderr
    (tmp_path / "vera.token").write_text(made.stdout)
    vera = Cli(tmp_path / "vera", installed.api)
    done = await vera(
        "login", "--server", installed.api.server, "--ca-file", str(tmp_path / "ca.pem"),
        "--token-file", str(tmp_path / "vera.token"), "-o", "json",
    )  # fmt: skip
    assert json.loads(done.stdout)["role"] == "viewer"
    await vera("audit", "export", str(tmp_path / "export.ndjson"))
    denied = await vera("tokens", "create", "--name", "more", "--role", "viewer", code=4)
    assert "[api/role-too-low]" in denied.stderr
    listed = json.loads((await installed("tokens", "list", "-o", "json")).stdout)
    assert [(item["name"], item["role"], item["createdBy"]) for item in listed] == [("vera", "viewer", "admin")]
    assert token not in json.dumps(listed)
    assert "vera" in (await installed("tokens", "list")).stdout
    await installed("tokens", "revoke", "vera")
    refused = await vera("status", code=4)
    assert "[api/bad-token]" in refused.stderr
    again = await installed("tokens", "revoke", "vera", code=1)
    assert "[api/unknown-token-name]" in again.stderr
    records = json.loads((await installed("audit", "tail", "-o", "json")).stdout)
    told = [(item["action"], item["decision"], item["actor"]) for item in records if "token." in item["action"]]
    assert told[-4:] == [
        ("api-token.create", "done", "admin"), ("api-token.create", "deny", "vera"),
        ("api-token.revoke", "done", "admin"), ("api-token.revoke", "failed", "admin"),
    ]  # fmt: skip


async def test_a_token_can_go_into_a_file_and_nowhere_else(installed: Cli, tmp_path: Path) -> None:
    """--file keeps it off the screen; the file is the user's own and is never written over."""
    file = tmp_path / "ci.token"
    for form in ("table", "json", "yaml", "name"):
        file.unlink(missing_ok=True)
        create = ("tokens", "create", "--name", f"ci-{form}", "--role", "deployer", "--file", str(file), "-o", form)
        done = await installed(*create)
        assert file.read_text().startswith("cwapi_")
        assert file.stat().st_mode & 0o077 == 0
        assert "cwapi_" not in done.stdout + done.stderr
    taken = await installed("tokens", "create", "--name", "x", "--role", "viewer", "--file", str(file), code=1)
    assert "[cli/exists]" in taken.stderr
    lost = str(tmp_path / "none" / "ci.token")
    nowhere = await installed("tokens", "create", "--name", "x", "--role", "viewer", "--file", lost, code=2)
    assert "[cli/bad-file]" in nowhere.stderr
    assert "token/x" not in (await installed("tokens", "list", "-o", "name")).stdout.splitlines()
