"""What a cell believes of its objects, whichever way and in whatever order it hears of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from agent.cells.cell import Cell
from agent.objects.model import CellRecord, OwnedObject, Role


def _deployment(version: str, available: int, uid: str = "u-1") -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "web", "namespace": "shop--front--dev", "uid": uid, "generation": 1, "resourceVersion": version,
        },
        "spec": {"replicas": 1},
        "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": available},
    }  # fmt: skip


def _cell() -> Cell:
    return Cell(CellRecord("shop", "front", "dev", "shop--front--dev"))


def test_a_late_answer_does_not_undo_what_the_watch_told() -> None:
    """Same generation, older version: the answer to an apply that arrives after the watch event of its readiness.

    Nothing would ever tell again that it is ready, because nothing changes any more.
    """
    cell = _cell()
    assert cell.observe(_deployment("9", available=0))
    assert cell.observe(_deployment("10", available=1))
    assert not cell.observe(_deployment("9", available=0))
    assert not cell.observe(_deployment("11", available=1)), "it was still believed to be ready"


def test_another_object_of_the_same_name_starts_anew() -> None:
    """A recreated object is believed although, after a restore of the cluster, its version may be lower."""
    cell = _cell()
    assert cell.observe(_deployment("10", available=1))
    assert cell.observe(_deployment("3", available=0, uid="u-2"))


def test_what_was_gone_is_believed_again() -> None:
    """After a whole list without it, or its deletion, nothing of the former one counts."""
    cell = _cell()
    live = _deployment("10", available=1)
    assert cell.observe(live)
    (ref,) = list(cell._health)
    cell.forget(ref)
    assert cell.observe(_deployment("5", available=1))


def test_versions_that_are_no_numbers_count_as_new() -> None:
    """Some API servers behind the same API keep versions of their own kind."""
    cell = _cell()
    assert cell.observe(_deployment("abc", available=1))
    assert cell.observe(_deployment("abd", available=0))


def _job(uid: str, *, done: bool) -> dict[str, Any]:
    conditions = [{"type": "Complete", "status": "True"}] if done else []
    return {
        "apiVersion": "batch/v1", "kind": "Job", "spec": {}, "status": {"conditions": conditions},
        "metadata": {"name": "once", "namespace": "shop--front--dev", "uid": uid, "resourceVersion": "7"},
    }  # fmt: skip


def test_completion_is_of_one_job_and_not_of_its_name() -> None:
    """Also when it goes in the very moment it completes; another one of that name has yet to run."""
    cell = _cell()
    owned = OwnedObject(_job("", done=False), Role.OBJECT, "u-1")
    cell.record = cell.record.with_object(owned)
    cell.observe(_job("u-1", done=False))
    assert not cell.is_done(owned)
    cell.forget(owned.ref, _job("u-1", done=True))
    assert cell.is_done(owned)
    assert not cell.is_done(dataclasses.replace(owned, uid="u-2"))
    assert not cell.is_done(dataclasses.replace(owned, uid=""))
    assert cell.remember_done()
    assert cell.record.objects[0].done
