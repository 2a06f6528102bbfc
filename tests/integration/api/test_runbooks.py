"""The runbooks, run: every command of a guide in the order it stands there, with names put in."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cellward.documents.names import CellKey
from hub.store.interfaces import LockRow
from tests.fakes.command_line import Cli

RUNBOOKS = Path("docs/how-to/runbooks")
_BLOCK = re.compile(r"^ *```console\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def commands(guide: Path) -> list[str]:
    """Lines of a guide that begin with ``$ cellward``."""
    lines = [line.strip() for block in _BLOCK.findall(guide.read_text()) for line in block.splitlines()]
    return [line.removeprefix("$ cellward ") for line in lines if line.startswith("$ cellward ")]


async def play(cli: Cli, guide: Path, names: dict[str, str]) -> int:
    """Run them all; returns how many there were."""
    lines = commands(guide)
    for line in lines:
        await cli(*filled(line, names))
    return len(lines)


def filled(line: str, names: dict[str, str]) -> list[str]:
    """Words of a line with names put in."""
    return [names.get(word, _filled(word, names)) for word in shlex.split(line)]


def _filled(word: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        word = re.sub(rf"\b{name}\b", value, word) if name.isupper() else word
    return word


@pytest.mark.parametrize(("guide", "by"), [("stolen-agent-key.md", ""), ("cloned-agent.md", "hub")])
async def test_v7_who_is_locked_comes_back_with_new_keys_and_nobody_else(installed: Cli, guide: str, by: str) -> None:
    """V7: after the runbook there is no lock, no certificate of before counts, and a token waits for the right one."""
    store = installed.api.store
    row = await store.clusters.get("eu-1")
    assert row is not None
    if by:
        await store.locks.put(LockRow("agent", row.uid, "two-live-streams", installed.api.services.clock.now(), by))
    assert await play(installed, RUNBOOKS / guide, {"UID": row.uid, "NAME": "eu-1"}) >= 4
    assert await store.locks.list() == ()
    after = await store.clusters.get("eu-1")
    assert after is not None
    assert after.generation_floor > row.generation
    assert (installed.home / "join-eu-1-token").exists()


async def test_a_leaked_deployer_token_is_of_no_use_and_what_it_withheld_is_lifted(installed: Cli) -> None:
    """The token is gone, the cell runs again, and there is a new short-lived one."""
    store, key = installed.api.store, CellKey("shop", "cart", "dev")
    await store.desired.upsert("eu-1", key, "sha256:" + "a" * 64, (), "quarantine")
    await installed("tokens", "create", "--name", "ci", "--role", "deployer")
    names = {"TOKEN": "ci", "NEWTOKEN": "ci-2", "PROJECT/CELL": "shop/cart"}
    assert await play(installed, RUNBOOKS / "leaked-deployer-token.md", names) == 5
    item = await store.desired.get("eu-1", key)
    assert item is not None
    assert item.hub_state == "run"
    assert [token.subject for token in await store.api_tokens.list()] == ["ci-2"]
