"""``make demo``: runs every scene, then stays up until Ctrl-C; with ``ONCE=1`` it sums up, checks itself and ends."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tools.demo import real
from tools.demo import stage as stages
from tools.demo.narrate import Narrator
from tools.demo.scenes import audit, certificate, courier, doors, drift, forgery, main_job, outage, theft
from tools.demo.stage import Stage
from tools.demo.summary import Summary
from tools.parts.build import ensure
from tools.parts.locate import path_of

PARTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "opa")
_OF_CELLS = "app.kubernetes.io/managed-by=cellward"
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
    summary.put("isolation", main_job.isolation(stage))
    summary.put("isolation_edges", main_job.edges(stage))
    pods = [
        pod for kube in stage.kubectl.values() for pod in kube.list("pods", "app.kubernetes.io/managed-by=cellward")
    ]
    summary.put("programs", real.kind_of_programs(pods, stage.images.stand_ins if stage.images else frozenset()))
    summary.put("nodes", kind_of_nodes(node for kube in stage.kubectl.values() for node in kube.list("nodes")))
    audit.metrics(stage, summary)
    for arguments in (("status",), ("cells", "list"), ("audit", "tail", "-n", "12"), ("check",)):
        shown = stage.cli.run(*arguments, accept=(0, 1))
        sys.stderr.write(f"\n$ cellward {' '.join(arguments)}\n{shown.stdout}{shown.stderr}")
        stage.narrator.verdict(
            shown.returncode == 0, f"cellward {arguments[0]} ends with 0", f"cellward {arguments[0]} shows red"
        )


def kind_of_nodes(nodes: Iterable[Mapping[str, Any]]) -> str:
    """``simulated`` when every node's own status says that kwok runs its containers, ``real`` when none does.

    A kubelet writes its runtime there (containerd://…); where none runs it is what kwok wrote in its place.
    """
    runtimes = [node.get("status", {}).get("nodeInfo", {}).get("containerRuntimeVersion", "") for node in nodes]
    kinds = {"simulated" if runtime.startswith("simulated://") else "real" for runtime in runtimes if runtime}
    return kinds.pop() if len(kinds) == 1 and all(runtimes) else "mixed or none"


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
    ("Security decides", "the bundle decides what unproved means", lambda s, _: main_job.prove_and_deploy(s)),
    ("What policy refuses", "each rule refuses exactly what it is about (V15)", main_job.refused_by_policy),
    ("Forged and replayed policy", "the hub's keys cannot change what agents enforce (V8)", forgery.forged_policy),
    ("A stolen hub", "whoever holds all of the hub cannot widen anything", theft.stolen_hub),
    ("A hub that lies to the author", "nothing an author's key signs is chosen by a hub", courier.lying_hub),
    ("Foreign certificates", "identity is the certificate and nothing else (V3)", certificate.foreign_certificate),
    ("A lock", "a locked cluster is cut off at once, and goes on enforcing (V4)", doors.lock),
    ("A label that stops nothing", "repair and fence cannot block each other (V11, V12)", doors.repair_not_blocked),
    ("A label that opens nothing", "only namespaces the agent stamped are cells (V10)", doors.labels_open_nothing),
    ("Tampering", "drift is taken back, additions too (V11)", _drift),
    ("The hub is gone", "agents enforce, repair and record on their own (V1, V13)", outage.outage),
    ("The record", "it cannot be rewritten unnoticed, by the hub neither", audit.audit),
    ("Where things stand", "eight cells on two clusters, all of it measured just now", _closing),
)


def run_scenes(stage: Stage, summary: Summary, scenes: Sequence[Scene] = SCENES) -> None:
    """Run every scene; one that fails is shown and the next ones still run, but without a stage nothing can."""
    for number, (title, proves, play) in enumerate(scenes):
        stage.narrator.scene(title, proves)
        try:
            play(stage, summary)
        except Exception as error:  # noqa: BLE001 - shown, and the summary says so
            stage.narrator.failed(title, error)
            _show_logs(stage)
            if number < 5:
                return


def _show_logs(stage: Stage) -> None:
    for child in (*([stage.hub] if hasattr(stage, "hub") else []), *stage.agents.values()):
        sys.stderr.write(f"--- end of what {child.name} wrote\n{child.tail()}\n")
    try:
        ready = stage.ready_cells()
        for state in stage.api.cell_states():
            if (state["cluster"], state["cell"]) not in ready:
                sys.stderr.write(f"--- {state['cell']} on {state['cluster']}: {json.dumps(state)[:1500]}\n")
    except Exception as error:  # noqa: BLE001 - more of the story, not the story
        sys.stderr.write(f"--- the hub does not tell of the cells: {error or type(error).__name__}\n")


def _stay(stage: Stage) -> None:
    """Tell what to type in a second terminal, and wait for Ctrl-C, which is how this is meant to end."""
    # Real nodes have a network of their own, and everything else of the demonstration is in it.
    enter = f"  nsenter --target {os.getpid()} --net bash   # as root: its network\n" if stage.images else ""
    sys.stderr.write(
        "\nEverything stays up until Ctrl-C. In a second terminal:\n"
        f"{enter}"
        f"  export CELLWARD_HOME={stage.home} CELLWARD_OPA={shlex.quote(str(path_of('opa')))}\n"
        "  .venv/bin/cellward status\n"
        "  .venv/bin/cellward cells show boutique/cart\n"
        "  .venv/bin/cellward check\n"
        "  .venv/bin/cellward audit tail\n"
        f"  .venv/bin/kubectl --kubeconfig {stage.planes['eu-1'].kubeconfig_admin} get pods -A\n"
        f"  curl http://{stage.metrics_address}/metrics\n"
    )
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        sys.stderr.write("\nending: everything started here is stopped, its directory removed\n")


def main() -> int:
    """Play the demonstration; exit 0 only if all of it is what it must be, 130 when it was cut short.

    With ``ONCE=1`` the last line on stdout is the summary, whatever happened.
    """
    once = os.environ.get("ONCE", "") not in {"", "0"}
    # SIGTERM ends it like Ctrl-C, so that the stage is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # `make` says when it began, so that installing the dependencies counts too.
    begun = float(os.environ.get("CELLWARD_STARTED") or time.time())
    narrator, summary = Narrator(), Summary()
    told: list[str] | None = None
    try:
        narrator.scene("Tools", "every part is the real one, found on PATH or built from its own source")
        nodes = real.chosen(narrator)
        ensure(PARTS)
        if nodes == real.REAL:
            real.enter_laboratory(begun)
        summary.put("setup_seconds", _since(begun))
        with stages.open_stage(narrator, nodes) as stage:
            run_scenes(stage, summary)
            if not once:
                summary.put("seconds", _since(begun))
                told = _tell(narrator, summary)
                _stay(stage)
    except KeyboardInterrupt:
        sys.stderr.write("\nended; everything started here was stopped\n")
        if once:
            print(summary.line())
        return 130
    except Exception as error:  # noqa: BLE001 - shown, and the summary says so
        narrator.failed("the demonstration", error)
        told = None
    if told is None:
        summary.put("seconds", _since(begun))
        told = _tell(narrator, summary)
    if once:
        print(summary.line())
    return 1 if told else 0


def _since(begun: float) -> float:
    return round(time.time() - begun, 1)


def _tell(narrator: Narrator, summary: Summary) -> list[str]:
    """Say what is not as it must be; returns it."""
    problems = [*narrator.failures, *summary.wrong()]
    for problem in problems:
        sys.stderr.write(f"not as it must be: {problem}\n")
    if not problems:
        sys.stderr.write("\nall of it is what it must be\n")
    return problems


if __name__ == "__main__":
    sys.exit(main())
