"""Namespaces with labels of a cell that the agent does not have: whose they are, and what is told of them (V10)."""

from __future__ import annotations

from typing import Any

import pytest

from agent.kube.interfaces import WatchEvent, WatchType
from agent.objects.impostors import CONDITION, Impostors, is_own_place
from cellward.cells import labels
from cellward.cells.stamps import Stamps
from cellward.runtime.health import HealthRegistry
from tests.fakes.clock import ManualClock
from tests.fakes.recorder import ListRecorder

STAMPS = Stamps.of(b"k" * 32)
CELL = {labels.PROJECT: "shop", labels.CELL: "cart", labels.ENVIRONMENT: "dev"}
OWN = {**CELL, **STAMPS.of_namespace("shop")}


class Scene:
    """One look at one namespace."""

    def __init__(self, stamps: Stamps | None = STAMPS) -> None:
        self.health, self.recorder, self.stamps = HealthRegistry(ManualClock()), ListRecorder(), stamps
        self.impostors = Impostors(self.recorder, self.health, lambda _: False, lambda: self.stamps)

    async def see(self, name: str, found: dict[str, str]) -> Any:
        """Show a namespace, and return the condition."""
        event = {"metadata": {"name": name, "labels": found}}
        await self.impostors.handle(WatchEvent(WatchType.ADDED, event))
        await self.impostors.handle(WatchEvent(WatchType.SYNCED, {}))
        return next(one for one in self.health.get() if one.name == CONDITION)


async def test_v1_a_cell_whose_record_was_lost_is_no_impostor() -> None:
    """Its name and stamp prove it: nobody is told to delete what runs, and it is a finding of its own."""
    scene = Scene()
    said = await scene.see("shop--cart--dev", OWN)
    assert (said.ok, said.code) == (False, "stamps/cell-not-on-record")
    assert "shop/cart in dev" in said.message
    assert "delete" not in said.message
    assert [entry.code for entry in scene.recorder.entries] == ["stamps/cell-not-on-record"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("shop--cart--dev", CELL),
        ("evil", OWN),
        ("shop--cart--dev", {**OWN, labels.STAMP: "copied"}),
        ("bank--cart--dev", {**OWN, labels.PROJECT: "bank"}),
        ("shop--cart--dev", {**CELL, **Stamps.of(b"o" * 32).of_namespace("shop")}),
    ],
)
async def test_v10_whoever_only_claims_it_is_one(name: str, found: dict[str, str]) -> None:
    """No stamp, another name, a stamp of another project or of a key that does not hold any more."""
    assert not is_own_place(name, found, STAMPS)
    said = await Scene().see(name, found)
    assert (said.ok, said.code) == (False, "stamps/not-a-cell")
    assert f"kubectl label namespace {name}" in said.message


async def test_a_stamp_is_judged_when_it_proves_something() -> None:
    """While stamps are not known, or being renewed, what has one may be a cell; what has none is none."""
    scene = Scene(stamps=None)
    assert (await scene.see("shop--cart--dev", OWN)).ok
    assert not (await scene.see("evil", CELL)).ok
    scene.stamps = STAMPS
    await scene.impostors.judge()
    codes = {entry.object: entry.code for entry in scene.recorder.entries}
    assert codes == {"Namespace/evil": "stamps/not-a-cell", "Namespace/shop--cart--dev": "stamps/cell-not-on-record"}
