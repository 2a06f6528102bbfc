"""``make demo``: runs every scene, then stays up until Ctrl-C; with ``ONCE=1`` it sums up, checks itself and ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable

from cellward.errors import CellwardError
from tools.demo import stage as stages
from tools.demo.narrate import Narrator, StepFailedError
from tools.demo.scenes import audit, certificate, drift, forgery, main_job, outage, theft
from tools.demo.stage import Stage
from tools.demo.summary import Summary
from tools.parts.build import ensure

PARTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "opa")
Scene = tuple[str, str, Callable[[Stage, Summary], None]]


def _drift(stage: Stage, summary: Summary) -> None:
    summary.put("drift_repaired_ms", drift.tamper_with_everything(stage.kubectl["eu-1"], stage.narrator))
    main_job.wait_ready(stage)


def _closing(stage: Stage, summary: Summary) -> None:
    main_job.end_refused(stage)
    main_job.wait_ready(stage)
    summary.put("clusters", len(stage.api.get("/clusters")["items"]))
    summary.put("agents_connected", len(stage.connected()))
    summary.put("cells_ready", len(stage.ready_cells()))
    summary.put("nodes", _kind_of_nodes(stage))
    audit.metrics(stage, summary)
    for arguments in (("status",), ("cells", "list"), ("audit", "tail", "-n", "12"), ("check",)):
        shown = stage.cli.run(*arguments, accept=(0, 1))
        sys.stderr.write(f"\n$ cellward {' '.join(arguments)}\n{shown.stdout}{shown.stderr}")
        stage.narrator.verdict(
            shown.returncode == 0, f"cellward {arguments[0]} ends with 0", f"cellward {arguments[0]} shows red"
        )


def _kind_of_nodes(stage: Stage) -> str:
    """``simulated`` when kwok plays every node, ``real`` when it plays none."""
    nodes = [node for kube in stage.kubectl.values() for node in kube.list("nodes")]
    played = [node["metadata"].get("annotations", {}).get("kwok.x-k8s.io/node") == "fake" for node in nodes]
    return {frozenset({True}): "simulated", frozenset({False}): "real"}.get(frozenset(played), "mixed or none")


SCENES: tuple[Scene, ...] = (
    ("Control planes", "everything below happens on real API servers", lambda s, _: stages.start_planes(s)),
    (
        "A hub",
        "its keys are encrypted at rest; none has a say over policy",
        lambda s, _: stages.start_hub(s),
    ),
    ("Keys and policy", "what widens is signed here, not on the hub", lambda s, _: main_job.keys_and_policy(s)),
    ("Two agents join", "agents dial out, and trust the root they were installed with", lambda s, _: main_job.join(s)),
    ("The shop is deployed", "isolation has to be proved before production runs", main_job.deploy_until_proof),
    ("Security decides", "the bundle decides what unproved means", lambda s, _: main_job.tolerate_and_deploy(s)),
    ("What policy refuses", "each rule refuses exactly what it is about (V15)", main_job.refused_by_policy),
    ("Forged and replayed policy", "the hub's keys cannot change what agents enforce (V8)", forgery.forged_policy),
    ("A stolen hub", "whoever holds all of the hub cannot widen anything", theft.stolen_hub),
    ("Foreign certificates", "identity is the certificate and nothing else (V3)", certificate.foreign_certificate),
    ("Tampering", "drift is taken back, additions too (V11)", _drift),
    ("The hub is gone", "agents enforce, repair and record on their own (V1, V13)", outage.outage),
    ("The record", "it cannot be rewritten unnoticed, by the hub neither", audit.audit),
    ("Where things stand", "eight cells on two clusters, all of it measured just now", _closing),
)


def run_scenes(stage: Stage, summary: Summary) -> None:
    """Run every scene; one that fails is told and the next ones still run, but without a stage nothing can."""
    for number, (title, proves, play) in enumerate(SCENES):
        stage.narrator.scene(title, proves)
        try:
            play(stage, summary)
        except (StepFailedError, CellwardError) as error:
            stage.narrator.bad(f"{title}: {error}")
            _show_logs(stage)
            if number < 5:
                return


def _show_logs(stage: Stage) -> None:
    for child in (*([stage.hub] if hasattr(stage, "hub") else []), *stage.agents.values()):
        sys.stderr.write(f"--- end of {child.log.name}\n{child.tail()}\n")
    with contextlib.suppress(StepFailedError, AttributeError):
        ready = stage.ready_cells()
        for state in stage.api.cell_states():
            if (state["cluster"], state["cell"]) not in ready:
                sys.stderr.write(f"--- {state['cell']} on {state['cluster']}: {json.dumps(state)[:1500]}\n")


def _stay(stage: Stage) -> None:
    directory = stage.home
    sys.stderr.write(
        "\nEverything stays up until Ctrl-C. In a second terminal:\n"
        f"  export CELLWARD_HOME={directory}\n"
        "  .venv/bin/python -m hub.cli status\n"
        "  .venv/bin/python -m hub.cli cells show boutique/cart\n"
        "  .venv/bin/python -m hub.cli check\n"
        "  .venv/bin/python -m hub.cli audit tail\n"
        f"  .venv/bin/kubectl --kubeconfig {stage.planes['eu-1'].kubeconfig_admin} get pods -A\n"
        f"  curl http://{stage.metrics_address}/metrics\n"
    )
    while True:
        time.sleep(1)


def main() -> int:
    """Play the demonstration; exit 0 only if all of it is what it must be."""
    once = os.environ.get("ONCE", "") not in {"", "0"}
    # SIGTERM ends it like Ctrl-C, so that the stage is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # `make` says when it began, so that installing the dependencies counts too.
    begun = float(os.environ.get("CELLWARD_STARTED") or time.time())
    narrator, summary = Narrator(), Summary()
    try:
        narrator.scene("Tools", "every part is the real one, found on PATH or built from its own source")
        ensure(PARTS)
        setup = time.time() - begun
        with stages.open_stage(narrator) as stage:
            run_scenes(stage, summary)
            summary.put("setup_seconds", round(setup, 1))
            summary.put("seconds", round(time.time() - begun, 1))
            problems = [*narrator.failures, *summary.wrong()]
            if not once:
                _tell(problems)
                _stay(stage)
    except KeyboardInterrupt:
        sys.stderr.write("\nended; everything started here was stopped\n")
        return 130
    except (CellwardError, StepFailedError) as error:
        sys.stderr.write(f"\n{error}\n{getattr(error, 'hint', '')}\n")
        problems = [str(error)]
    _tell(problems)
    print(summary.line())
    return 1 if problems else 0


def _tell(problems: list[str]) -> None:
    for problem in problems:
        sys.stderr.write(f"not as it must be: {problem}\n")
    if not problems:
        sys.stderr.write("\nall of it is what it must be\n")


if __name__ == "__main__":
    sys.exit(main())
