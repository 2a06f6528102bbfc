"""``cellward clusters command``: given, delivered, its outcome shown; given again under its id it is the same one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from cellward.runtime.clock import SystemClock
from hub.store.changes import link_topic
from hub.store.links import CommandRow, PresenceRow, boot_digest, replica_lease
from hub.store.sql.store import SqlStore
from tests.fakes.command_line import Cli


@asynccontextmanager
async def _agent(store: SqlStore) -> AsyncIterator[list[CommandRow]]:
    """Play eu-1 with an open stream: it does what it is told, but has no prober. Gives what it was told."""
    await store.leases.take(replica_lease("this"), "this", timedelta(hours=1))
    told: list[CommandRow] = []

    async def carry_out() -> None:
        async with store.changes.subscribe(link_topic("eu-1")) as changed:
            await store.links.opened([PresenceRow("eu-1", "this", "s-1", boot_digest("b-1"), SystemClock().now())])
            while True:
                for row in await store.links.take_commands("eu-1", boot_digest("b-1")):
                    told.append(row)
                    if row.kind == "probe":
                        result = {"code": "isolation/no-prober", "reason": "no prober"}
                        await store.links.finish_command("eu-1", row.id, "refused", result)
                    else:
                        await store.links.finish_command("eu-1", row.id, "done", {"facts": {"opa": "ok"}})
                await changed.wait()

    task = asyncio.create_task(carry_out())
    try:
        async with asyncio.timeout(10):
            while not await store.links.live(["eu-1"]):
                await asyncio.sleep(0.01)
        yield told
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_v2_a_command_is_given_and_its_outcome_shown(installed: Cli) -> None:
    """V2: facts of a diagnosis, a refusal as an error; the same id again gives no second command."""
    away = await installed("clusters", "command", "eu-1", "resync", code=3)
    assert "[link/not-connected]" in away.stderr
    async with _agent(installed.api.store) as told:
        done = await installed("clusters", "command", "eu-1", "diagnose", "--id", "look-0001", "-o", "json")
        shown = json.loads(done.stdout)
        assert (shown["state"], shown["facts"], shown["id"]) == ("done", {"opa": "ok"}, "look-0001")
        again = await installed("clusters", "command", "eu-1", "diagnose", "--id", "look-0001")
        assert "opa" in again.stdout
        refused = await installed("clusters", "command", "eu-1", "probe", "shop/cart/dev", code=4)
        assert "[cli/command-refused]" in refused.stderr
        assert "isolation/no-prober" in refused.stderr
        assert [row.kind for row in told] == ["diagnose", "probe"]
    unknown = await installed("clusters", "command", "eu-1", "apply", code=2)
    assert "[cli/bad-option]" in unknown.stderr
