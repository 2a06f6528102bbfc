"""The anchor in its Secret: whatever somebody made of it, the agent starts, and says so in a new epoch (V1, V16)."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.anchor import ANCHOR_NAME, MAX_FLOORS, SecretAnchor
from agent.kube.interfaces import ObjectRef
from agent.spool.interfaces import AnchorState, FloorsCopy
from agent.spool.state import OpenedState, open_state
from cellward.documents.floors import Floor
from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from tests.fakes.clock import ManualClock
from tests.fakes.kube import FakeKube

D1 = "sha256:" + "1" * 64
GOOD = {"uid": "u-1", "epoch": 3, "seq": 7}
EMPTY = json.dumps({"cells": [], "policy": None}).encode()
ROW = ["shop", "cart", "dev", 3, D1, None]


def secret(text: str, floors: bytes = EMPTY, packed: bytes = b"") -> dict[str, Any]:
    """A Secret with this text as its anchor, and floors."""
    data = {
        "anchor.json": base64.b64encode(text.encode()).decode(),
        "floors.json.zlib": base64.b64encode(packed or zlib.compress(floors)).decode(),
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": ANCHOR_NAME, "namespace": "cellward-system"},
        "data": data,
    }


def policy_floor(version: int, digest: str) -> bytes:
    """Floors with one of the policy's targets."""
    roles = {"targets": {"version": version, "signed": digest}}
    return json.dumps({"cells": [], "policy": {"roles": roles, "keys": {}}}).encode()


async def opened_with(directory: Path, kube: FakeKube) -> OpenedState:
    """Open the state of a test."""
    return await open_state(directory, clock=ManualClock(), anchor=SecretAnchor(kube, "cellward-system"))


@pytest.fixture
async def kube() -> FakeKube:
    """A cluster with the agent's namespace."""
    fake = FakeKube()
    place = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "cellward-system"}}
    await fake.apply(place, manager="chart")
    return fake


@pytest.mark.parametrize(
    "manifest",
    [
        secret("not json"),
        secret("[]"),
        secret("[" * 100_000),
        secret(json.dumps({**GOOD, "epoch": 2**70})),
        secret(json.dumps({**GOOD, "epoch": -1})),
        secret(json.dumps({**GOOD, "seq": 2**53})),
        secret(json.dumps({**GOOD, "closings": -1})),
        secret(json.dumps({"uid": "u-1"})),
        {**secret(""), "data": {"anchor.json": "%%%"}},
        {**secret(""), "data": {"other": "eA=="}},
        {**secret(""), "data": {"anchor.json": base64.b64encode(json.dumps(GOOD).encode()).decode()}},
        secret(json.dumps(GOOD), b"not json"),
        secret(json.dumps(GOOD), b'{"cells": {}, "policy": 7}'),
        secret(json.dumps(GOOD), policy_floor(2**60, D1)),
        secret(json.dumps(GOOD), policy_floor(3, "\ud800")),
        secret(json.dumps(GOOD), json.dumps({"cells": [[*ROW[:3], 0, D1, None]], "policy": None}).encode()),
        secret(json.dumps(GOOD), json.dumps({"cells": [[*ROW[:3], 1, "x", None]], "policy": None}).encode()),
        secret(json.dumps(GOOD), json.dumps({"cells": [[*ROW[:5], 10**30]], "policy": None}).encode()),
        secret(json.dumps(GOOD), json.dumps({"cells": [ROW[:2]], "policy": None}).encode()),
        secret(json.dumps(GOOD), packed=b"not packed"),
        secret(json.dumps(GOOD), packed=zlib.compress(EMPTY)[:-3]),
        secret(json.dumps(GOOD), b" " * 17 * 1024 * 1024),
    ],
    ids=[
        "text",
        "list",
        "deep",
        "huge-epoch",
        "negative",
        "huge-seq",
        "closings",
        "fields",
        "base64",
        "key",
        "no-floors",
        "not-json",
        "policy",
        "policy-version",
        "policy-digest",
        "zero",
        "digest",
        "time",
        "short",
        "unpacked",
        "cut-off",
        "bomb",
    ],
)
async def test_v1_v16_a_damaged_anchor_is_a_finding_and_a_new_epoch_never_an_end(
    tmp_path: Path, kube: FakeKube, manifest: dict[str, Any]
) -> None:
    """Floors and uid stay what the volume says, and the Secret is made anew."""
    first = await opened_with(tmp_path, kube)
    await first.db.floors.set("shop", "cart", "dev", Floor(3, D1))
    uid = first.db.uid
    await first.db.close()
    await kube.delete(ObjectRef("v1", "Secret", "cellward-system", ANCHOR_NAME))
    await kube.apply(manifest, manager="somebody")
    again = await opened_with(tmp_path, kube)
    assert [finding.code for finding in again.findings] == ["spool/anchor-damaged"]
    assert (again.db.uid, again.db.epoch) == (uid, 2)
    assert await again.db.floors.get("shop", "cart", "dev") == Floor(3, D1)
    saved = await SecretAnchor(kube, "cellward-system").load()
    assert saved == await again.db.position()
    await again.db.close()


async def test_the_anchor_comes_back_as_it_was_saved(kube: FakeKube) -> None:
    """Absent is None, and what was saved is what is read."""
    anchor = SecretAnchor(kube, "cellward-system")
    assert await anchor.load() is None
    floors = FloorsCopy(
        {
            CellKey("shop", "cart", "dev"): Floor(3, D1, datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)),
            CellKey("shop", "cart", "prod"): Floor(2, D1),
        },
        {"roles": {"snapshot": {"version": 7, "signed": D1}}, "keys": {"1" * 64: "retired"}},
    )
    state = AnchorState("u-1", 3, 7, floors, 5)
    await anchor.save(state)
    assert await anchor.load() == state


async def test_an_anchor_of_an_agent_of_before_counts_no_closings(kube: FakeKube) -> None:
    """An update is no finding."""
    await kube.apply(secret(json.dumps(GOOD)), manager="somebody")
    assert await SecretAnchor(kube, "cellward-system").load() == AnchorState("u-1", 3, 7, FloorsCopy())


async def test_v1_floors_of_many_cells_fit_and_too_many_are_refused(kube: FakeKube) -> None:
    """2,000 cells take an eighth of the bound; past it nothing new is accepted, rather than a part of it kept."""

    def floors(count: int) -> FloorsCopy:
        cells = {}
        for number in range(count):
            digest = f"sha256:{hashlib.sha256(str(number).encode()).hexdigest()}"
            moment = datetime.fromtimestamp(1_800_000_000 + number * 7919 / 1000, UTC)
            key = CellKey(f"project-{number % 40}", f"some-service-{number}", "production")
            cells[key] = Floor(1_800_000_000_000 + number * 7919, digest, moment)
        return FloorsCopy(cells)

    anchor = SecretAnchor(kube, "cellward-system")
    await anchor.save(AnchorState("u-1", 1, 1, floors(2000)))
    stored = await kube.get(ObjectRef("v1", "Secret", "cellward-system", ANCHOR_NAME))
    assert len(base64.b64decode(stored["data"]["floors.json.zlib"])) < MAX_FLOORS / 7
    loaded = await anchor.load()
    assert loaded is not None
    assert len(loaded.floors.cells) == 2000
    with pytest.raises(CellwardError) as caught:
        await anchor.save(AnchorState("u-1", 1, 1, floors(20_000)))
    assert caught.value.code == "spool/floors-too-large"
