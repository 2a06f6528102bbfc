"""Two people sign for one cell: what one remembers does not stand any more once the other signed something newer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from cellward.errors import CellwardError
from cli.context import now
from cli.door import documents
from cli.errors import UNREACHABLE
from cli.home import Home
from cli.memory import Memory
from cli.records import Base
from tests.fakes.command_line import CALLER, CELL, Cli, file_in

OLD, NEW = CELL, CELL.replace('"1.0"', '"1.1"')


def colleague(cli: Cli, directory: Path) -> Cli:
    """Somebody with the same hub, and a memory of his own."""
    home = directory / "colleague"
    shutil.copytree(cli.home, home)
    shutil.rmtree(home / "state")
    return Cli(home, cli.api)


async def bob(cli: Cli, directory: Path) -> Cli:
    """A colleague with an author's key of his own."""
    other = colleague(cli, directory)
    for file in (other.home / "keys").glob("author.*"):
        file.unlink()
    await other("keys", "create", "author", "--no-passphrase")
    await cli("author", "add", "bob", "--key", str(other.home / "keys" / "author.pub"))
    return other


def line(result: Result) -> dict[str, Any]:
    """The one cell that was applied."""
    found: dict[str, Any] = json.loads(result.stdout)[0]
    return found


async def test_v2_what_a_colleague_signed_since_is_not_unchanged(installed: Cli, tmp_path: Path) -> None:
    """V2: going back to what was applied here before is a new Deployment, above the newer one of somebody else."""
    old, new = file_in(tmp_path, OLD, "old.yaml"), file_in(tmp_path, NEW, "new.yaml")
    other = colleague(installed, tmp_path)
    mine = line(await installed("apply", "-f", old, "-e", "dev", "-o", "json"))
    assert line(await installed("apply", "-f", old, "-e", "dev", "-o", "json"))["change"] == "unchanged"
    theirs = line(await other("apply", "-f", new, "-e", "dev", "-o", "json"))
    back = line(await installed("apply", "-f", old, "-e", "dev", "-o", "json"))
    assert (back["change"], back["release"]) == ("deployed", mine["release"])
    assert back["sequence"] > theirs["sequence"] > mine["sequence"]


async def test_v2_an_end_that_no_hub_took_is_signed_anew_above_what_came_since(
    installed: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V2: the same tombstone once more would be older than the colleague's Deployment, and end nothing."""
    old, new = file_in(tmp_path, OLD, "old.yaml"), file_in(tmp_path, NEW, "new.yaml")
    other = colleague(installed, tmp_path)
    await installed("apply", "-f", old, "-e", "dev")
    end = ("delete", "shop/cart", "-e", "dev", "-o", "json")

    def broken(*_: object) -> None:
        raise CellwardError("cli/hub-unreachable", "away", "away", "again")

    with monkeypatch.context() as patch:
        patch.setattr(documents, "upload", broken)
        await installed(*end, code=1)
    theirs = line(await other("apply", "-f", new, "-e", "dev", "-o", "json"))
    ended = json.loads((await installed(*end)).stdout)
    assert ended["sequence"] > theirs["sequence"]


async def test_after_a_repair_a_peers_release_is_not_our_own(installed: Cli, tmp_path: Path) -> None:
    """A release that a person named as peer is neither "same release" nor used unverified once the index was lost."""
    cart, front = file_in(tmp_path, CELL), file_in(tmp_path, CALLER, "front.yaml")
    other = await bob(installed, tmp_path)
    theirs = line(await other("apply", "-f", cart, "-e", "dev", "-o", "json"))
    await installed("apply", "-f", front, "-e", "dev", "--peer", theirs["release"])
    mine = line(await installed("apply", "-f", front, "-e", "dev", "-o", "json"))
    assert mine["change"] == "unchanged"
    (installed.home / "state" / "state.json").unlink()
    (installed.home / "state" / "previous.json").unlink()
    await installed("trust", "repair")
    refused = await installed("apply", "-f", front, "-e", "dev", code=4)
    assert "cli/peer-not-named" in refused.stderr
    # What was signed here is still known as ours: the release is not made a second time.
    again = await installed("apply", "-f", front, "-e", "dev", "--peer", theirs["release"], "-o", "json")
    assert line(again)["release"] == mine["release"]
    # Lost once more, the peer is asked for anew and verified: its key is stolen by now.
    (installed.home / "state" / "state.json").unlink()
    (installed.home / "state" / "previous.json").unlink()
    await installed("trust", "repair")
    await other("trust", "learn")
    await other("author", "revoke", "bob", "--compromised", "--record", str(installed.home / "policy-record.json"))
    changed = file_in(tmp_path, CALLER.replace('"1.0"', '"1.1"'), "changed.yaml")
    refused = await installed("apply", "-f", changed, "-e", "dev", "--peer", theirs["release"], code=4)
    assert "document/no-valid-signature" in refused.stderr
    # And what we release with the same content is a release of ours, signed now.
    ours = line(await installed("apply", "-f", cart, "-e", "dev", "-o", "json"))
    assert ours["release"] != theirs["release"]


@pytest.mark.parametrize("way", ["lock", "revoke"])
@pytest.mark.parametrize("taken", [True, False], ids=["taken", "hub-away"])
async def test_a_key_locked_here_counts_for_nothing_here_at_once(
    installed: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, taken: bool
) -> None:
    """A release that such a key signed is not used from memory, also while no hub has the lock; lifting undoes it."""
    cart, front = file_in(tmp_path, CELL), file_in(tmp_path, CALLER, "front.yaml")
    other = await bob(installed, tmp_path)
    theirs = line(await other("apply", "-f", cart, "-e", "dev", "-o", "json"))
    await installed("apply", "-f", front, "-e", "dev", "--peer", theirs["release"])
    record = json.loads((installed.home / "policy-record.json").read_text())
    keyid = next(one["keyid"] for one in record["content"]["keyring"]["entries"] if one["owner"] == "bob")
    words = {
        "lock": ("lock", f"key/{keyid}", "--reason", "stolen", "--signed"),
        "revoke": ("author", "revoke", "bob", "--compromised"),
    }
    with monkeypatch.context() as patch:
        if not taken:
            patch.setattr(Base, "upload", _away)
        await installed(*words[way], code=0 if taken else 3)
    home = Home(installed.home)
    found = home.state(home.trust())
    memory = Memory(found, found.read(), now())
    named = next(one for one in memory.state.documents if one.digest == theirs["release"])
    assert memory.spoilt(named)
    assert list(memory.releases(("shop", "cart"))) == []
    if way == "lock" and taken:
        await installed("unlock", f"key/{keyid}", "--signed")
        assert not Memory(found, found.read(), now()).spoilt(named)


def _away(*_: object) -> None:
    raise UNREACHABLE("away")
