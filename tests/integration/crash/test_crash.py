"""V13: a hub that is killed at any statement of any mutation has done it with its record, or has not done it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.postgres import Server
from tools.parts.model import ROOT

pytestmark = [pytest.mark.timeout(600)]

#: Every n-th statement of each mutation in `make test`, from a chance one on; all of them in `make soak`.
_SQLITE_STEP, _POSTGRESQL_STEP = 6, 12


def _strike(url: str, step: int) -> dict[str, object]:
    step = 1 if "CELLWARD_SOAK_EXAMPLES" in os.environ else step
    command = [sys.executable, "-m", "tests.integration.crash.strikes", url, str(step)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stdout, ended.stderr
    found: dict[str, object] = json.loads(ended.stdout.splitlines()[-1])
    return found


def _judge(found: dict[str, object]) -> None:
    assert found["violations"] == []
    # Both outcomes were seen, or the harness ends nothing at all.
    assert found["undone"]
    assert found["done"]


def test_v13_a_killed_hub_has_done_it_with_its_record_or_not_at_all_on_sqlite(tmp_path: Path) -> None:
    """A process that ends at a statement, at a commit, or between the commit and the answer."""
    _judge(_strike(f"sqlite:///{tmp_path / 'hub.db'}", _SQLITE_STEP))


async def test_v13_a_killed_hub_has_done_it_with_its_record_or_not_at_all_on_postgresql(postgres: Server) -> None:
    """The same, where the database goes on and only the connection is lost."""
    _judge(_strike(await postgres.new(migrated=False), _POSTGRESQL_STEP))
