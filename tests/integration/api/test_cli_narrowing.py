"""What a hub may withhold, from the command line: locks, holds, quarantines, decommissioning; no key is touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cellward.documents.names import CellKey
from cellward.runtime.clock import SystemClock
from hub.authority.tokens import JoinTokens
from tests.fakes.command_line import Cli
from tests.fakes.refusals import refused

KEY = CellKey("shop", "cart", "dev")


@contextmanager
def no_key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail whoever asks for a private key."""

    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("a key was asked for")

    with monkeypatch.context() as patched:
        patched.setattr("cellward.identity.keys.private_from_pem", refuse)
        patched.setattr("cli.keys.load_key", refuse)
        yield


async def _two_clusters(cli: Cli) -> None:
    for name in ("eu-1", "us-1"):
        if await cli.api.store.clusters.get(name) is None:
            await cli.api.store.clusters.create(name, "test")
        await cli.api.agent_joins(name, "dev", stream=f"stream-{name}")
        await cli.api.store.desired.upsert(name, KEY, "sha256:" + "a" * 64)


async def _states(cli: Cli) -> dict[str, str]:
    return {row.desired.cluster: row.desired.hub_state for row in await cli.api.clusters.cells("shop", "cart")}


async def test_v4_lock_locks_and_unlock(installed: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """V4: by uid; a dry run locks nobody, the list says why, and --rekey takes every certificate out of force."""
    await _two_clusters(installed)
    uid = (await installed.api.clusters.cluster("eu-1")).uid
    with no_key(monkeypatch):
        tried = await installed("lock", f"agent/{uid}", "--reason", "key stolen", "--dry-run")
        assert "nothing was locked" in tried.stderr
        assert (await installed("locks", "-o", "name")).stdout == ""
        made = json.loads((await installed("lock", f"agent/{uid}", "--reason", "key stolen", "-o", "json")).stdout)
        assert (made["clusters"], made["createdBy"]) == (["eu-1"], "admin")
        listed = (await installed("locks")).stdout
        assert "key stolen" in listed
        assert "locked" in (await installed("clusters", "list")).stdout
        unheld = await installed("lock", f"key/{'ab' * 32}", "--reason", "x")
        assert "no cluster is held" in unheld.stderr
        done = await installed("unlock", f"agent/{uid}", "--rekey")
        assert "cellward clusters invite eu-1" in done.stderr
    row = await installed.api.store.clusters.get("eu-1")
    assert row is not None
    assert row.generation_floor > row.generation
    assert (await installed("locks", "-o", "name")).stdout.split() == [f"lock/key/{'ab' * 32}"]
    assert "[identity/bad-lock]" in (await installed("lock", "eu-1", "--reason", "x", code=2)).stderr
    assert "[fleet/unknown-cluster]" in (await installed("lock", "cluster/eu-9", "--reason", "x", code=1)).stderr
    assert "[api/unknown-lock]" in (await installed("unlock", f"agent/{uid}", code=1)).stderr


async def test_hold_quarantine_and_lift(installed: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the options say, and nowhere else; a dry run changes nothing; each is on record."""
    await _two_clusters(installed)
    with no_key(monkeypatch):
        await installed("hold", "shop/cart", "--dry-run")
        assert await _states(installed) == {"eu-1": "run", "us-1": "run"}
        done = await installed("hold", "shop/cart", "-e", "dev", "-o", "name")
        assert done.stdout.split() == ["cell/shop/cart/dev/eu-1", "cell/shop/cart/dev/us-1"]
        assert await _states(installed) == {"eu-1": "hold", "us-1": "hold"}
        await installed("quarantine", "shop/cart", "--cluster", "us-1")
        assert await _states(installed) == {"eu-1": "hold", "us-1": "quarantine"}
        await installed("lift", "shop/cart")
        assert await _states(installed) == {"eu-1": "run", "us-1": "run"}
    for wrong in (("-e", "prod"), ("--cluster", "eu-9")):
        assert "[cli/bad-option]" in (await installed("hold", "shop/cart", *wrong, code=2)).stderr
    records = json.loads((await installed("audit", "tail", "-o", "json")).stdout)
    told = [item["details"]["state"] for item in records if item["action"] == "cell.narrow"]
    assert told == ["hold", "hold", "quarantine", "run", "run"]


async def test_clusters_remove_decommissions(installed: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens, identity, items and name are gone for good, others stay, the record keeps it, and what to run is said."""
    await _two_clusters(installed)
    api = installed.api
    token = await api.services.enrolment.mint("eu-1", lifetime=api.services.join_token_life)
    with no_key(monkeypatch):
        assert "--confirm eu-1" in (await installed("clusters", "remove", "eu-1", code=2)).stderr
        tried = json.loads((await installed("clusters", "remove", "eu-1", "--dry-run", "-o", "json")).stdout)
        # What was not tried has no number: the hub has two tokens of it, as the end of this test shows.
        assert tried["joinTokens"] is None
        assert "not counted" in (await installed("clusters", "remove", "eu-1", "--dry-run")).stdout
        assert (await api.clusters.cluster("eu-1")).name == "eu-1"
        done = await installed("clusters", "remove", "eu-1", "--confirm", "eu-1")
    assert "helm uninstall cellward-agent" in done.stderr
    assert await _states(installed) == {"us-1": "run"}
    assert (await installed("clusters", "list", "-o", "name")).stdout.split() == ["cluster/us-1"]
    assert (await api.store.clusters.standing()).removed == {"eu-1"}
    with refused("store/unknown-token"):
        await JoinTokens(api.store.tokens, SystemClock()).spend(token, "0" * 64)
    with refused("fleet/cluster-exists"):
        await api.clusters.create_cluster("eu-1", "test")
    records = json.loads((await installed("audit", "tail", "-o", "json")).stdout)
    removed = next(item for item in records if item["action"] == "cluster.remove")
    assert (removed["object"], removed["decision"], removed["details"]["count"]) == ("Cluster//eu-1", "done", "2")
