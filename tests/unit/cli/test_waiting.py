"""``--wait``: what keeps a cell from being ready is said at once, and once (V15)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from cellward.api import schemas
from cellward.errors import CellwardError
from cli import waiting
from cli.cells import _phase
from cli.door.client import Client

KEY = ("shop", "cart")
WANTED = "sha256:" + "1" * 64
SINCE = datetime(2026, 3, 1, 12, tzinfo=UTC)


def _state(**changes: Any) -> schemas.CellState:
    fields = {"project": "shop", "cell": "cart", "environment": "dev", "cluster": "eu-1", "phase": "progressing"}
    return schemas.CellState(**{**fields, "desired_digest": WANTED, "deployment_digest": WANTED, **changes})


class _Hub:
    """Answers with one state after the other, and with the last for ever."""

    def __init__(self, states: Iterable[schemas.CellState]) -> None:
        self._states = list(states)

    def get(self, path: str, kind: type[schemas.Cell]) -> schemas.Cell:
        assert path == "/cells/shop/cart"
        state = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        return kind(
            project="shop", cell="cart", environments=[], versions=[], clusters=1, ready=0, refused=0, states=[state]
        )


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "STEP", 0.0)


def _wait(*states: schemas.CellState, seconds: float = 5.0, phase: str = "ready") -> None:
    # The first look only asks whether anybody is meant.
    waiting.wait_cells(cast("Client", _Hub([states[0], *states])), {KEY: WANTED}, phase, seconds)


READY = _state(phase="ready")


def test_v15_an_engine_that_cannot_be_started_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """By its own code with this program's own step, once however often it is seen; then the wait goes on."""
    reasons = ("opa is not there", "opa is not there still")
    refusals = [schemas.Refusal(code="policy/engine-not-startable", reason=reason) for reason in reasons]
    _wait(*[_state(phase="pending", deployment_digest="", refusals=[one]) for one in refusals], READY)
    said = capsys.readouterr().err
    assert said.count("eu-1 waits with shop/cart in dev [policy/engine-not-startable]") == 1
    assert "reason: opa is not there\n" in said
    assert "opa_binary" in said
    assert "cellward policy publish" not in said
    assert said.endswith("all targeted clusters succeeded: ready\n")


def test_v15_pods_that_do_not_run_are_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Each workload once; the error at the end has the code too."""
    subject, message = "Deployment/shop--cart--dev/web", "container main, image r/web:1: ImagePullBackOff"
    found = schemas.CellCondition(code="cell/image-not-pulled", subject=subject, message=message)
    other = schemas.CellCondition(code="cells/host-name-not-expressible", subject="spec", message="said when applied")
    with pytest.raises(CellwardError) as caught:
        _wait(_state(conditions=[found, other]), seconds=0.05)
    assert caught.value.code == "cli/not-ready"
    assert "shop/cart on eu-1 (cell/image-not-pulled)" in caught.value.message
    said = capsys.readouterr().err
    assert said.count("eu-1 cannot run all pods of shop/cart [cell/image-not-pulled]") == 1
    assert f"{subject}: {message}" in said
    assert "host-name" not in said


def test_what_an_older_wish_was_refused_for_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    """The state may still be that of the wish before; a refusal of this one comes with its receipt."""
    _wait(_state(refusals=[schemas.Refusal(code="policy/denied", reason="old")]), READY)
    assert "policy/denied" not in capsys.readouterr().err


def test_a_cell_on_a_cluster_without_a_link_is_not_taken_for_ready(capsys: pytest.CaptureFixture[str]) -> None:
    """What it was before the link went down is no success; that it ended stays true."""
    away = _state(phase="ready", connected=False, unknown_since=SINCE, reported_at=SINCE)
    with pytest.raises(CellwardError) as caught:
        _wait(away, seconds=0.05)
    assert "shop/cart on eu-1 (no link)" in caught.value.message
    assert capsys.readouterr().err.count("eu-1 has no link to the hub") == 1
    _wait(away, READY)
    _wait(_state(phase="removed", connected=False), phase="removed")


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (READY, "ready"),
        (_state(phase="ready", hub_state="hold"), "ready (hold)"),
        (
            _state(phase="ready", connected=False, unknown_since=SINCE, reported_at=SINCE),
            "unknown since 2026-03-01 12:00:00 UTC, was ready",
        ),
        (_state(phase="ready", connected=False, reported_at=SINCE), "unknown, was ready"),
        (_state(phase="pending", connected=False), "pending"),
    ],
)
def test_phase_of_a_cell_says_when_nobody_knows_it(state: schemas.CellState, shown: str) -> None:
    """A cluster that never reported has nothing to be unknown."""
    assert _phase(state) == shown
