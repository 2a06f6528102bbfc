"""The demonstration's summary: it fails for anything missing or wrong, and it is there whatever happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.refusals import refused
from tools.demo.__main__ import kind_of_nodes, run_scenes
from tools.demo.agents import printed_line
from tools.demo.narrate import Narrator, StepFailedError, UnreachableError, wait_for
from tools.demo.real import kind_of_programs
from tools.demo.stage import Stage
from tools.demo.summary import CONDITIONS, PROOF, Summary, starter_rules
from tools.parts.model import ROOT
from tools.stack.errors import PART_DIED


def _pod(*images: str) -> dict[str, Any]:
    return {"status": {"containerStatuses": [{"imageID": image} for image in images]}}


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (("registry.example/cart@sha256:aa", "sha256:aa"), "stand-in"),
        (("registry.example/cart@sha256:aa", "registry.example/web@sha256:aa"), "stand-in"),
        (("registry.example/cart@sha256:bb",), "public"),
        (("registry.example/cart@sha256:bb", "registry.example/web@sha256:aa"), "mixed or none"),
        (("", ""), "simulated"),
        ((), "mixed or none"),
    ],
)
def test_programs_are_what_runtimes_say_they_are(images: tuple[str, ...], said: str) -> None:
    """The digests of the images that run, and not what was meant to run."""
    assert kind_of_programs([_pod(image) for image in images], frozenset({"sha256:aa"})) == said


def _refused() -> dict[str, Any]:
    found = {}
    for file in sorted((ROOT / "examples" / "refused").glob("*.yaml")):
        rule = file.read_text().splitlines()[0].removeprefix("# refused-by: ")
        found[file.name] = {"meant": rule, "refused_by": [rule]}
    return found


_TRUE = (
    "forged_bundle_refused", "replayed_bundle_refused", "unsigned_release_refused", "older_deployment_refused",
    "relabelled_cluster_refused", "unknown_field_refused", "unproved_isolation_refused", "foreign_certificate_refused",
    "audit_verified", "dry_run_signs_nothing", "fallback_not_chosen_by_hub", "order_not_chosen_by_hub",
    "join_line_is_inert", "repair_not_blocked", "labels_open_nothing",
)  # fmt: skip
_TAMPERED = {"one byte changed": True, "one record dropped": True, "two records swapped": True, "the end cut off": True}
_DRIFT = {
    "image changed": 300, "sidecar added": 300, "Service deleted": 300,
    "allow-all rule added to a NetworkPolicy": 300, "NetworkPolicy deleted": 4999,
}  # fmt: skip
GOOD: dict[str, Any] = {
    "seconds": 90.5, "setup_seconds": 0.1, "nodes": "simulated", "programs": "simulated",
    "clusters": 2, "agents_connected": 2, "cells_ready": 8, "isolation": dict.fromkeys("abcdefgh", "unknown"),
    "isolation_edges": {"tried": 0, "wrong": 0},
    "refused_by_policy": _refused(), **dict.fromkeys(_TRUE, True), "drift_repaired_ms": _DRIFT, "hub_down_ms": 7,
    "lock_cuts_ms": 900,
    "audit_records_while_down": 2, "audit_records": 200, "audit_gaps": 0, "audit_duplicates": 0,
    "tampered_audit_detected": _TAMPERED, "metrics_series": 1,
}  # fmt: skip


def _summary(values: dict[str, Any]) -> Summary:
    summary = Summary()
    for key, value in values.items():
        summary.put(key, value)
    return summary


def test_all_that_must_be_is_enough() -> None:
    """Control: the good values pass, and the line has every key of the table."""
    assert set(GOOD) == set(CONDITIONS)
    assert _summary(GOOD).wrong() == []
    assert json.loads(_summary(GOOD).line()).keys() == CONDITIONS.keys()


def test_a_missing_key_is_wrong() -> None:
    """What no scene filled in fails, and is null in the line."""
    for key in CONDITIONS:
        summary = _summary({name: value for name, value in GOOD.items() if name != key})
        assert [text.partition(":")[0] for text in summary.wrong()] == [key]
        assert json.loads(summary.line())[key] is None


_WRONG: list[tuple[str, Any]] = [
    *((key, value) for key in _TRUE for value in (False, 1, "true", None, [True])),
    *((key, value) for key in ("clusters", "agents_connected") for value in (1, 3, True, "2", 2.0, None)),
    *((key, value) for key in ("audit_gaps", "audit_duplicates") for value in (1, -1, False, None, "0")),
    *(
        (key, value)
        for key in ("hub_down_ms", "audit_records_while_down", "audit_records", "metrics_series", "seconds")
        for value in (0, -1, True, None, "1", float("nan"), float("inf"))
    ),
    *(("lock_cuts_ms", value) for value in (0, 1001, True, None, "90")),
    ("cells_ready", 7),
    ("setup_seconds", -1),
    ("setup_seconds", True),
    ("nodes", "mixed or none"),
    ("nodes", ""),
    ("programs", "mixed or none"),
    ("isolation", dict.fromkeys("abcdefg", "unknown")),
    ("isolation", {**dict.fromkeys("abcdefg", "unknown"), "h": "enforced"}),
    ("isolation", []),
    ("isolation_edges", {"tried": 0, "wrong": 1}),
    ("isolation_edges", {"tried": 9, "wrong": 0}),
    ("isolation_edges", {"wrong": 0}),
    ("isolation_edges", None),
    ("drift_repaired_ms", {}),
    ("drift_repaired_ms", None),
    ("drift_repaired_ms", _DRIFT | {"image changed": 5000}),
    ("drift_repaired_ms", _DRIFT | {"image changed": 0}),
    ("drift_repaired_ms", _DRIFT | {"image changed": True}),
    ("drift_repaired_ms", {name: ms for name, ms in _DRIFT.items() if name != "Service deleted"}),
    ("tampered_audit_detected", {}),
    ("tampered_audit_detected", _TAMPERED | {"one byte changed": 1}),
    ("tampered_audit_detected", _TAMPERED | {"a fifth": False}),
    ("tampered_audit_detected", {"one byte changed": True}),
]


def test_a_wrong_value_is_wrong() -> None:
    """Almost right is wrong; 1 is not True, True is not 1."""
    for key, value in _WRONG:
        found = {text.partition(":")[0] for text in _summary(GOOD | {key: value}).wrong()}
        assert found == {key}, f"{key}={value!r}"
    whole = _summary(GOOD | {"setup_seconds": 91}).wrong()
    assert [text.partition(":")[0] for text in whole] == ["seconds"], "the setup is a part of the whole"


def test_every_example_must_be_refused_by_its_rule_and_every_rule_must_have_refused() -> None:
    """A part of them is not enough, nor is another rule, a second one, or a rule of a file that is no example."""
    good = _refused()
    name = "privileged.yaml"
    assert PROOF in starter_rules()
    assert {entry["meant"] for entry in good.values()} == starter_rules() - {PROOF}
    other = "starter/images/registry"
    for wrong in (
        None,
        {},
        {name: good[name]},
        {file: entry for file, entry in good.items() if file != name},
        good | {"stranger.yaml": good[name]},
        good | {name: {"meant": good[name]["meant"], "refused_by": [other]}},
        good | {name: {"meant": other, "refused_by": [other]}},
        good | {name: {"meant": good[name]["meant"], "refused_by": [good[name]["meant"], other]}},
        good | {name: {"meant": good[name]["meant"], "refused_by": []}},
    ):
        assert _summary(GOOD | {"refused_by_policy": wrong}).wrong() != []


def test_an_unknown_key_is_a_mistake_of_ours() -> None:
    """A scene cannot fill in something that nothing judges."""
    with pytest.raises(KeyError):
        Summary().put("everything_fine", True)  # noqa: FBT003 - the value


# -- what happens on the way ------------------------------------------------------------------------------------------


def test_a_scene_that_breaks_is_told_and_the_next_ones_play(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An exception nobody expected is a line of the story and a traceback, not the end of it."""
    stage, played = Stage(tmp_path, Narrator()), []

    def breaks(_stage: Stage, _summary: Summary) -> None:
        raise ZeroDivisionError("nobody expected this")

    def plays(_stage: Stage, _summary: Summary) -> None:
        played.append("last")

    fine = ("Fine", "nothing", lambda _stage, _summary: None)
    run_scenes(stage, Summary(), (*[fine] * 5, ("Broken", "nothing", breaks), ("Last", "nothing", plays)))
    assert played == ["last"]
    assert stage.narrator.failures == ["Broken: nobody expected this"]
    assert "Traceback" in capsys.readouterr().err
    with stage.narrator.guarded("a step"):
        raise ZeroDivisionError("nor this")
    assert stage.narrator.failures[1:] == ["a step: nor this"]


def test_waiting_survives_an_answer_that_did_not_come() -> None:
    """A transport error is no answer; a refusal, or a part that died, ends the waiting at once."""
    looks = iter([UnreachableError("reset"), None, "there"])

    def look() -> str | None:
        found = next(looks)
        if isinstance(found, Exception):
            raise found
        return found

    assert wait_for("it", look, 5) == "there"
    looks = iter([StepFailedError("refused")])
    with pytest.raises(StepFailedError, match="refused"):
        wait_for("it", look, 5)
    looks = iter([PART_DIED("the hub ended")])
    with refused("stack/part-died"):
        wait_for("it", look, 5)

    def silent() -> str:
        raise UnreachableError("connection refused")

    with pytest.raises(StepFailedError, match="timed out after 0 s waiting for it; the last look: connection refused"):
        wait_for("it", silent, 0)


def test_the_line_is_there_when_even_the_parts_are_not(tmp_path: Path) -> None:
    """`ONCE=1` ends with the JSON line and 1, whatever failed first; standard input may be closed."""
    environment = os.environ | {"ONCE": "1", "PATH": "/usr/bin:/bin", "CELLWARD_CACHE": str(tmp_path)}
    environment["CELLWARD_STARTED"] = str(time.time() - 1)
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec '{sys.executable}' -m tools.demo <&-"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line.keys() == CONDITIONS.keys()
    assert line["seconds"] >= 1
    assert line["cells_ready"] is None
    assert "Traceback" not in done.stderr


# -- looking ----------------------------------------------------------------------------------------------------------


def test_what_nodes_are_is_read_from_what_runs_their_containers() -> None:
    """Neither a label of ours nor an annotation says it."""

    def node(runtime: str) -> dict[str, Any]:
        return {"metadata": {"annotations": {"kwok.x-k8s.io/node": "fake"}}, "status": _status(runtime)}

    simulated, real, silent = node("simulated://kwok"), node("containerd://2.0.1"), node("")
    assert kind_of_nodes([simulated, simulated]) == "simulated"
    assert kind_of_nodes([real]) == "real"
    for nodes in ([], [silent], [simulated, silent], [simulated, real]):
        assert kind_of_nodes(nodes) not in {"simulated", "real"}
    stage = yaml.safe_load((ROOT / "tools/stack/kwok/node-initialize.yaml").read_text())
    assert "containerRuntimeVersion: simulated://" in stage["spec"]["next"]["statusTemplate"]


def _status(runtime: str) -> dict[str, Any]:
    return {"nodeInfo": {"containerRuntimeVersion": runtime}} if runtime else {}


def test_the_printed_line_is_what_the_invitation_says() -> None:
    """Exactly one line to start with; none is an error, not a guess."""
    said = "start it with: cellward-agent run --config '/a b/agent.yaml'\nthe token is bound to eu-1 and expires\n"
    assert printed_line(said) == "cellward-agent run --config '/a b/agent.yaml'"
    for wrong in ("", "the token is bound", said + said):
        with pytest.raises(StepFailedError):
            printed_line(wrong)


def test_v9_real_nodes_have_every_cell_measured() -> None:
    """One cell that is not enforced, and the demonstration fails."""
    enforced = dict.fromkeys("abcdefgh", "enforced")
    real = {**GOOD, "nodes": "real", "isolation": enforced, "isolation_edges": {"tried": 120, "wrong": 0}}
    assert _summary(real).wrong() == []
    (wrong,) = _summary({**real, "isolation": {**enforced, "a": "unknown"}}).wrong()
    assert wrong.startswith("isolation: ")
    (wrong,) = _summary({**real, "isolation_edges": {"tried": 0, "wrong": 0}}).wrong()
    assert wrong.startswith("isolation_edges: ")
