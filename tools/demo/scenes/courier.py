"""The hub lies to the author: what an author's key signs is never chosen by a hub. Each try is judged by what runs."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from cellward.documents import dsse
from cellward.documents.names import CellKey
from hub.store.documents import DocumentRow
from hub.store.interfaces import DesiredChange
from tools.demo.front import Front, lying_front
from tools.demo.narrate import StepFailedError, wait_for
from tools.demo.processes import Cli
from tools.demo.scenes.main_job import next_version, wait_ready
from tools.demo.scenes.stolen_hub import Loot
from tools.demo.stage import ROOT, Stage
from tools.demo.summary import Summary

_CLUSTER, _ENVIRONMENT = "eu-1", "development"
_PROJECT, _CELL = "boutique", "cart"
_KEY = CellKey(_PROJECT, _CELL, _ENVIRONMENT)
_CART = ROOT / "examples" / "boutique" / "cart.yaml"
#: More than any node has: its pods stay pending, and the rollout fails at its deadline.
_NEVER_SCHEDULED = "900"
_DEADLINE_SECONDS = 6
#: How long a planted document is left where agents look; a delivered one is acted on within a second.
_GIVEN_SECONDS = 5.0


class Author:
    """Somebody who signs through the lying hub: the demo's author, or a runner with the same keys and no memory."""

    def __init__(self, stage: Stage, front: Front, home: Path) -> None:
        self._stage = stage
        self.cli = Cli(home, server=f"https://{front.address}")

    def releases(self, file: Path, *more: str) -> None:
        """Apply a file to development."""
        self.cli.run("apply", "-f", str(file), "--environment", _ENVIRONMENT, *more)


def lying_hub(stage: Stage, summary: Summary) -> None:
    """Try all four; after each the cells are as their authors want them."""
    loot = Loot(stage.hub_data, (stage.directory / "hub-passphrase").read_bytes().strip())
    ca = stage.directory / "hub-ca.pem"
    tries = (
        ("dry_run_signs_nothing", "a dry run kept by the hub and delivered later", _dry_run),
        ("order_not_chosen_by_hub", "newer Deployments hidden from a runner", _order),
        ("fallback_not_chosen_by_hub", "an old release shown as the newest, then a rollout that fails", _fallback),
        ("join_line_is_inert", "an enrolment address with settings in it", _join_line),
    )
    for key, what, attempt in tries:
        with (
            stage.narrator.guarded(what),
            lying_front(loot, stage.api_address, ca) as front,
        ):
            held = attempt(stage, front, loot)
            summary.put(key, held)
            stage.narrator.verdict(held, f"{what}: nothing comes of it", f"{what}: the hub had its way")
    with stage.narrator.guarded("the cart as its author wants it"):
        stage.cli.run("apply", "-f", str(next_version(stage, _CART)), *_both())
        wait_ready(stage)


def _dry_run(stage: Stage, front: Front, loot: Loot) -> bool:
    """Keep what `delete --delete-data --dry-run` sends, deliver whatever of it is signed; does the cart live on?"""
    author = Author(stage, front, stage.home)
    author.cli.run("delete", f"{_PROJECT}/{_CELL}", "--environment", _ENVIRONMENT, "--delete-data", "--dry-run")
    if not front.kept:
        raise StepFailedError("the dry run sent nothing, so there was nothing to keep")
    kept = front.signed()
    stage.narrator.step(f"the hub kept {len(front.kept)} bodies of the dry run; {len(kept)} signed documents in them")
    for envelope in kept:
        _deliver(loot, envelope)
    if kept:
        time.sleep(_GIVEN_SECONDS)
    return not kept and (_CLUSTER, _CELL) in stage.ready_cells()


def _deliver(loot: Loot, envelope: dict[str, Any]) -> None:
    data = json.dumps(envelope).encode()
    digest = dsse.parse_envelope(data).digest
    loot.plant(DocumentRow(digest, "tombstone", data, _PROJECT))
    loot.desire(DesiredChange(_CLUSTER, _KEY, digest, ()))


def _order(stage: Stage, front: Front, loot: Loot) -> bool:
    """A runner is shown one old Deployment with sequence 1; does what it signs count as newer than all before?"""
    front.lies.append(_only_the_oldest)
    with _runner(stage, front) as runner:
        before = _desired(stage)
        runner.releases(next_version(stage, _CART))
        wait_for("the runner's release to run", partial(_runs_another, stage, before), 60, stage.narrator)
        newest = _desired(stage)
        older = loot_older(loot, newest)
        loot.desire(DesiredChange(_CLUSTER, _KEY, older, ()))
        refused = wait_for("eu-1 to refuse the older one", partial(_refusals, stage, older), 30, stage.narrator)
        loot.desire(DesiredChange(_CLUSTER, _KEY, newest, ()))
        wait_for("the runner's release to be as desired", partial(_settled_on, stage, newest), 30, stage.narrator)
    return {one["code"] for one in refused} == {"document/older-sequence"}


def _fallback(stage: Stage, front: Front, _loot: Loot) -> bool:
    """A runner that is shown only the oldest Deployment signs a release that fails; where does the agent go back to?"""
    front.lies.append(_only_the_oldest)
    with _runner(stage, front) as runner:
        good = wait_for("the cart to be settled", partial(_running_images, stage), 30, stage.narrator)
        runner.releases(_release_that_fails(stage))
        signed = _desired(stage)
        rolled_back = wait_for("the rollout to fail", partial(_rolled_back, stage, signed), 90, stage.narrator)
        stage.narrator.step(f"eu-1 says: {rolled_back}")
        wait_for("what ran before to run again", lambda: _running_images(stage) == good or None, 60, stage.narrator)
    return True


def _join_line(stage: Stage, front: Front, _loot: Loot) -> bool:
    """The hub answers an invitation with an address that begins with `{`; is anything of it written or printed?"""
    lie = "{x},realm=sha256:" + "0" * 64 + ",facts.production=false,facts.projects={*}"

    def with_settings(method: str, path: str, answer: Any) -> Any:
        if method == "POST" and path.endswith("/join-tokens"):
            return {**answer, "enrolmentAddress": lie}
        return answer

    front.lies.append(with_settings)
    author = Author(stage, front, stage.home)
    target = stage.directory / "inert"
    facts = ("--environment", "production", "--production")
    done = author.cli.run("clusters", "invite", "us-9", *facts, "--agent-config", str(target), accept=(0, 1, 2, 3, 4))
    stage.narrator.step(f"cellward says: {done.stderr.strip().splitlines()[0][:140] if done.stderr.strip() else ''}")
    written = (target / "agent.yaml").exists() and lie in (target / "agent.yaml").read_text()
    stage.cli.run("clusters", "remove", "us-9", "--confirm", "us-9")
    return done.returncode != 0 and not written and "facts.production" not in done.stdout


# -- the hub's lies ---------------------------------------------------------------------------------------------------


def _only_the_oldest(method: str, path: str, answer: Any) -> Any:
    """Show the oldest Deployment alone, and say that its number is 1."""
    if method != "GET" or not path.endswith("/documents") or not isinstance(answer.get("items"), list):
        return answer
    by_age = sorted(answer["items"], key=lambda item: item.get("sequence") or 0)
    return {**answer, "items": [{**item, "sequence": 1} for item in by_age[:1]], "nextCursor": ""}


def loot_older(loot: Loot, newest: str) -> str:
    """Digest of an older Deployment of the cart, truly signed, from the stolen database."""
    with loot.database() as database:
        rows = database.execute("SELECT digest, envelope FROM documents WHERE kind='deployment'").fetchall()
    found = []
    for digest, data in rows:
        body = json.loads(dsse.parse_envelope(bytes(data)).payload)
        if (body["project"], body["cell"]) == (_PROJECT, _CELL) and _ENVIRONMENT in body["environments"]:
            found.append((body["sequence"], digest))
    older = [digest for _, digest in sorted(found) if digest != newest]
    if not older:
        raise StepFailedError("there is no older deployment to replay")
    return str(older[0])


# -- the author's side ------------------------------------------------------------------------------------------------


@contextmanager
def _runner(stage: Stage, front: Front) -> Iterator[Author]:
    """Keys and trust of the author, on a machine that never signed anything."""
    home = stage.directory / "runner"
    shutil.copytree(stage.home, home, ignore=shutil.ignore_patterns("state", "tmp"))
    try:
        yield Author(stage, front, home)
    finally:
        shutil.rmtree(home)


def _release_that_fails(stage: Stage) -> Path:
    file = next_version(stage, _CART)
    cell = yaml.safe_load(file.read_text())
    cell["spec"]["components"]["cartservice"]["resources"] = {
        "requests": {"cpu": _NEVER_SCHEDULED, "memory": "64Mi"},
        "limits": {"cpu": _NEVER_SCHEDULED, "memory": "128Mi"},
    }
    placement = {
        "apiVersion": cell["apiVersion"],
        "kind": "Deployment",
        "metadata": {"name": "cart-in-a-hurry", "project": _PROJECT},
        "spec": {
            "cells": [_CELL],
            "environments": [_ENVIRONMENT],
            "clusterSelector": {"all": True},
            "rollout": {"deadlineSeconds": _DEADLINE_SECONDS},
        },
    }
    file.write_text(yaml.safe_dump_all([cell, placement]))
    return file


def _both() -> list[str]:
    return ["--environment", "development", "--environment", "production"]


# -- what runs --------------------------------------------------------------------------------------------------------


def _state(stage: Stage) -> dict[str, Any]:
    for state in stage.api.cell_states(_CLUSTER, _CELL):
        if state["environment"] == _ENVIRONMENT:
            return state
    raise StepFailedError(f"the hub knows nothing of {_CELL} on {_CLUSTER}")


def _desired(stage: Stage) -> str:
    return str(_state(stage)["desiredDigest"])


def _runs_another(stage: Stage, before: str) -> bool:
    state = _state(stage)
    return state["desiredDigest"] != before and _settled_on(stage, state["desiredDigest"])


def _settled_on(stage: Stage, digest: str) -> bool:
    state = _state(stage)
    return bool(state["phase"] == "ready" and state["deploymentDigest"] == state["desiredDigest"] == digest)


def _refusals(stage: Stage, digest: str) -> list[dict[str, Any]] | None:
    state = _state(stage)
    if state["desiredDigest"] == digest and state["acknowledged"] is False and state["refusals"]:
        found: list[dict[str, Any]] = state["refusals"]
        return found
    return None


def _rolled_back(stage: Stage, digest: str) -> str | None:
    state = _state(stage)
    if state["desiredDigest"] != digest or state["acknowledged"] is not False or not state["refusals"]:
        return None
    return "; ".join(f"{one['reason']} [{one['code']}]" for one in state["refusals"])


def _running_images(stage: Stage) -> list[tuple[str, str]] | None:
    """Name and pod template of every workload of the cart in development."""
    found = stage.kubectl[_CLUSTER].list("deployments,statefulsets", f"cellward.dev/cell={_CELL}")
    return sorted((one["metadata"]["name"], json.dumps(one["spec"]["template"]["spec"])) for one in found) or None
