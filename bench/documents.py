"""What history costs: a hub that keeps twenty thousand documents of two thousand cells.

Real: the hub as a process, its database on disk, uploads over the admin API, each a Release and a Deployment, signed
beforehand. Not there: agents. Ten clusters say their facts once, in their rows, so that every upload is placed on all.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.admin import Admin
from bench.author import Author
from bench.installation import Installation, installation
from bench.numbers import Row, percentile
from bench.procfs import usage
from cellward.documents.facts import ClusterFacts
from tools.stack.steps import drive

_PROJECTS = 4
_CLUSTERS = 10
_ENVIRONMENT = "development"
#: Documents of one seeding request.
_BATCH = 200
#: Timed uploads, one after the other.
_TIMES = 300
_RANDOM = 7


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is: documents kept before the timed uploads, and the cells they are of."""

    documents: int = 20_000
    cells: int = 2_000


@dataclass(frozen=True, slots=True)
class Started:
    """What a start took until the API answered, in seconds of time and of CPU, and what is then in memory, MB."""

    seconds: float
    cpu: float
    rss: float


def run(size: Size, *, sample: Path | None = None) -> list[Row]:
    """Measure an empty hub, fill it, and measure it again; returns the rows."""
    with installation(sample=sample) as hub:
        return _measure(hub, size)


def _measure(hub: Installation, size: Size) -> list[Row]:
    hub.start()
    hub.set_up()
    author = Author(hub.home, _ENVIRONMENT, hub.directory / "bundles")
    asyncio.run(_prepare(hub, author))
    _say(f"{size.documents} documents of {size.cells} cells")
    drive(hub.stop())
    _name_facts(hub.directory / "hub" / "hub.db")
    first = _restart(hub)
    began = time.monotonic()
    cells = asyncio.run(_fill(hub, author, size))
    filled = time.monotonic() - began
    times, cpu = asyncio.run(_uploads(hub, author, cells))
    grown = usage(hub.pid).rss
    drive(hub.stop())
    last = _restart(hub)
    note = f"{size.documents} documents, {size.cells} cells, {_CLUSTERS} clusters"
    return [
        Row("documents_fill", "documents kept, each", filled * 1000 / size.documents, "ms", note=f"{_BATCH} at a time"),
        Row("documents_upload_p50", "upload of a release, p50", percentile(times, 0.5), "ms", note=note),
        Row("documents_upload_p99", "upload of a release, p99", percentile(times, 0.99), "ms", 150),
        Row("documents_upload_cpu", "hub CPU of an upload", cpu * 1000 / _TIMES, "ms"),
        Row(
            "documents_start", "hub start until its API answers", last.seconds, "s", 3, note=f"{last.cpu:.2f} s of CPU"
        ),
        Row("documents_start_empty", "with nothing kept", first.seconds, "s", note=f"{first.cpu:.2f} s CPU"),
        Row("documents_rss_empty", "hub RSS, nothing kept", first.rss, "MB"),
        Row("documents_rss", "hub RSS above that, started with all of it", last.rss - first.rss, "MB", 30),
        Row("documents_rss_grown", "hub RSS above that, after the uploads", grown - first.rss, "MB"),
    ]


def _restart(hub: Installation) -> Started:
    began = time.monotonic()
    hub.start()
    seconds = time.monotonic() - began
    used = usage(hub.pid)
    return Started(seconds, used.cpu, used.rss)


async def _prepare(hub: Installation, author: Author) -> None:
    """Publish a policy set, so that there is a keyring, and invite the clusters."""
    async with _admin(hub) as admin:
        await admin.post("/policy/publications", author.publication()[1])
        invited = {"facts": {"environments": [_ENVIRONMENT], "production": False, "region": "bench"}}
        for number in range(_CLUSTERS):
            name = f"bench-{number}"
            await admin.post("/clusters", json.dumps({"name": name}).encode())
            await admin.post(f"/clusters/{name}/join-tokens", json.dumps(invited).encode())


def _name_facts(database: Path) -> None:
    """Write what an agent would say of itself into each cluster's row, while no hub runs."""
    with sqlite3.connect(database) as connection:
        for number in range(_CLUSTERS):
            facts = ClusterFacts(
                uid=f"uid-{number}",
                name=f"bench-{number}",
                environments=(_ENVIRONMENT,),
                region="bench",
                projects=("*",),
                production=False,
            )
            report = json.dumps({"facts": facts.to_json()})
            connection.execute("UPDATE clusters SET report = ? WHERE name = ?", (report, f"bench-{number}"))
    connection.close()


async def _fill(hub: Installation, author: Author, size: Size) -> list[tuple[str, str]]:
    """Upload versions of every cell until there are as many documents; return project and name of each cell."""
    cells = [(f"bench-{number % _PROJECTS}", f"cell-{number}") for number in range(size.cells)]
    async with _admin(hub) as admin:
        waiting: list[bytes] = []
        for number in range(size.documents // 2):
            waiting += author.version(*cells[number % len(cells)], size=2_000)
            if len(waiting) >= _BATCH or number == size.documents // 2 - 1:
                await admin.post("/documents", author.upload(waiting))
                waiting = []
    return cells


async def _uploads(hub: Installation, author: Author, cells: list[tuple[str, str]]) -> tuple[list[float], float]:
    """Upload new versions of cells, one after the other; return milliseconds of each, and the hub's CPU seconds."""
    chosen = random.Random(_RANDOM)  # noqa: S311 - the same cells in every run
    bodies = [author.upload(author.version(*chosen.choice(cells), size=2_000)) for _ in range(_TIMES)]
    times: list[float] = []
    before = usage(hub.pid).cpu
    async with _admin(hub) as admin:
        await admin.get("/status")
        for body in bodies:
            began = time.monotonic()
            answer = await admin.post("/documents", body)
            times.append((time.monotonic() - began) * 1000)
            if len(answer["clusters"]) != _CLUSTERS:
                raise RuntimeError(f"a release was placed on {len(answer['clusters'])} of {_CLUSTERS} clusters")
    return times, usage(hub.pid).cpu - before


def _admin(hub: Installation) -> Admin:
    return Admin(hub.api_address, hub.ca_file, hub.token_file.read_text().strip())


def _say(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")
