"""The anchor in its Secret: whatever somebody made of it, the agent starts, and says so in a new epoch (V1, V16)."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from agent.anchor import ANCHOR_NAME, SecretAnchor
from agent.kube.interfaces import ObjectRef
from agent.spool.interfaces import AnchorState
from agent.spool.state import OpenedState, open_state
from cellward.documents.floors import Floor
from tests.fakes.clock import ManualClock
from tests.fakes.kube import FakeKube

D1 = "sha256:" + "1" * 64
GOOD = {"uid": "u-1", "epoch": 3, "seq": 7, "floorsDigest": D1}


def secret(text: str) -> dict[str, Any]:
    """A Secret with this text as its anchor."""
    data = {"anchor.json": base64.b64encode(text.encode()).decode()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": ANCHOR_NAME, "namespace": "cellward-system"},
        "data": data,
    }


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
        secret(json.dumps({"uid": "u-1"})),
        {**secret(""), "data": {"anchor.json": "%%%"}},
        {**secret(""), "data": {"other": "eA=="}},
    ],
    ids=["text", "list", "deep", "huge-epoch", "negative", "huge-seq", "fields", "base64", "key"],
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
    state = AnchorState("u-1", 3, 7, D1)
    await anchor.save(state)
    assert await anchor.load() == state
