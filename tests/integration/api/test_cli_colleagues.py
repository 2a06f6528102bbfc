"""Two people sign for one cell: what one remembers does not stand any more once the other signed something newer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from cellward.errors import CellwardError
from cli.door import documents
from tests.fakes.command_line import CELL, Cli, file_in

OLD, NEW = CELL, CELL.replace('"1.0"', '"1.1"')


def colleague(cli: Cli, directory: Path) -> Cli:
    """Somebody with the same hub, and a memory of his own."""
    home = directory / "colleague"
    shutil.copytree(cli.home, home)
    shutil.rmtree(home / "state")
    return Cli(home, cli.api)


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
