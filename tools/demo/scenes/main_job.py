"""The main job: policy published, agents joined, cells deployed, isolated and ready; and what policy refuses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tools.demo.narrate import StepFailedError, wait_for
from tools.demo.real import REAL
from tools.demo.stage import CELLS, CLUSTERS, ENVIRONMENT, ROOT, SHOP, Stage, start_agent
from tools.demo.summary import PROOF, Summary

_BUNDLES = ROOT / "policies"
_SHOP = SHOP
_REFUSED = ROOT / "examples" / "refused"
#: Commands at once, where none waits for another.
_AT_ONCE = 3


def publish(stage: Stage, *, tolerate_unknown: bool) -> dict[str, Any]:
    """Publish the starter bundle, bound to every cluster; production may tolerate unproved isolation, if signed so."""
    parameters = {"isolation": {"tolerate": ["unknown"]}} if tolerate_unknown else {}
    stage.publications += 1
    bindings = {
        "bindings": [
            {
                # Another name each time, so that no publication is the same set again under a new number.
                "name": f"starter-{stage.publications}",
                "bundle": "starter",
                "selector": {"all": True},
                "mode": "enforce",
                "onStale": "refuse-new",
                "parameters": parameters,
            }
        ]
    }
    file = stage.directory / "bindings.yaml"
    file.write_text(yaml.safe_dump(bindings))
    result: dict[str, Any] = stage.cli.json("policy", "publish", str(_BUNDLES), "--bindings", str(file))
    return result


def wait_policy(stage: Stage, snapshot: int) -> None:
    """Wait until both agents verified this snapshot and decide on it."""

    def everywhere() -> bool:
        clusters = stage.api.get("/clusters")["items"]
        return len(clusters) == len(CLUSTERS) and all(one["policy"]["snapshot"] >= snapshot for one in clusters)

    wait_for(f"snapshot {snapshot} to be in force on both clusters", everywhere, 60, stage.narrator)


def keys_and_policy(stage: Stage) -> None:
    """Make all keys on this machine, give the hub its root, publish the starter bundle."""
    narrator = stage.narrator
    server = f"https://{stage.api_address}"
    ca, token = stage.directory / "hub-ca.pem", stage.hub_data / "admin.token"
    stage.cli.run("login", "--server", server, "--ca-file", str(ca), "--token-file", str(token))
    realm = stage.cli.run("init", "--no-passphrase", "--owner", "demo").stdout.strip()
    narrator.good(f"root, policy, keyring, publisher and author keys made here; the realm is {realm[:19]}…")
    published = publish(stage, tolerate_unknown=False)
    narrator.good(f"starter bundle signed here and published, snapshot {published['snapshotVersion']}")


def join(stage: Stage) -> None:
    """Invite both clusters and start their agents with the line that each invitation prints."""
    for cluster in CLUSTERS:
        start_agent(stage, cluster)
    stage.wait_connected(*CLUSTERS)
    wait_policy(stage, 1)
    stage.narrator.good("both agents joined, each verified the policy with the root it was installed with")


def deploy_until_proof(stage: Stage, summary: Summary) -> None:
    """Deploy the shop: development takes it, production refuses it for want of a proof of isolation."""
    narrator = stage.narrator
    arguments = [part for env in ("development", "production") for part in ("--environment", env)]
    stage.cli.run("apply", "-f", str(_SHOP), *arguments)
    narrator.step("release and deployment of four cells signed here, silently, and handed to the hub")
    for cell in CELLS:
        wait_for(f"{cell} on eu-1", partial(_ready, stage, "eu-1", cell), 90, narrator)
    narrator.good("eu-1 (development): four cells isolated, applied and ready")

    def refused() -> list[set[str]] | None:
        states = [state for state in stage.api.cell_states("us-1") if state["phase"] == "refused"]
        return [{r["rule"] for r in state["refusals"]} for state in states] if len(states) == len(CELLS) else None

    rules = wait_for("us-1 to refuse the cells", refused, 60, narrator)
    workloads = stage.kubectl["us-1"].list("deployments", "app.kubernetes.io/managed-by=cellward")
    held = all(found == {PROOF} for found in rules) and not workloads
    if stage.nodes == REAL:
        held = held and set(_isolation(stage, "us-1").values()) == {"not-enforced"}
        why = "its node has no policy engine, and packets that must not were seen to get through"
    else:
        why = "simulated nodes carry no packets, so nothing can be measured"
    summary.put("unproved_isolation_refused", held)
    narrator.verdict(
        held,
        f"us-1 (production) refuses all four: {PROOF}; {why}",
        f"us-1 refused with {rules}, and runs {len(workloads)} workloads",
    )


def _ready(stage: Stage, cluster: str, cell: str) -> bool:
    return (cluster, cell) in stage.ready_cells()


def prove_and_deploy(stage: Stage) -> None:
    """Production takes the very same deployments: once packets are stopped, or where security signs for unproved."""
    if stage.nodes == REAL:
        stage.planes["us-1"].real[0].start_engine()
        stage.narrator.step("us-1 gets a policy engine (kube-router), and its agent measures again")
        wait_ready(stage)
        measured = all(state == "enforced" for name in CLUSTERS for state in _isolation(stage, name).values())
        stage.narrator.verdict(
            measured,
            "us-1: the same deployments, decided again, are now ready; 8 of 8 cells, each measured to be isolated",
            f"isolation is {[_isolation(stage, name) for name in CLUSTERS]}",
        )
        return
    published = publish(stage, tolerate_unknown=True)
    stage.narrator.step(
        "security signs a binding that tolerates unproved isolation, because nothing can measure it here"
    )
    wait_policy(stage, published["snapshotVersion"])
    wait_ready(stage)
    stage.narrator.good("us-1: the same deployments, decided again, are now ready; 8 of 8 cells")


def isolation(stage: Stage) -> dict[str, str]:
    """What is known of the isolation of each cell of the shop, by cluster and cell."""
    return {f"{name}/{cell}": state for name in CLUSTERS for cell, state in _isolation(stage, name).items()}


def edges(stage: Stage) -> dict[str, int]:
    """How many edges of the shop's cells were tried with packets, and how many were not what both sides signed."""
    proofs = [state.get("isolationProof") or {} for state in stage.api.cell_states() if state["cell"] in CELLS]
    return {word: sum(int(proof.get(word) or 0) for proof in proofs) for word in ("tried", "wrong")}


def _isolation(stage: Stage, cluster: str) -> dict[str, str]:
    states = stage.api.cell_states(cluster)
    return {state["cell"]: state["isolation"] for state in states if state["cell"] in CELLS}


def wait_ready(stage: Stage) -> None:
    """Wait until every cell is ready on every cluster."""
    wanted = len(CELLS) * len(CLUSTERS)
    wait_for("8 of 8 cells to be ready", lambda: len(stage.ready_cells()) == wanted, 90, stage.narrator)


def refused_by_policy(stage: Stage, summary: Summary) -> None:
    """One cell per rule, each breaking exactly that rule."""
    found: dict[str, dict[str, Any]] = {}
    files = sorted(_REFUSED.glob("*.yaml"))
    tries = [_Refused.of(stage, file) for file in files]
    _apply(stage, files)
    for file, one in zip(files, tries, strict=True):
        with stage.narrator.guarded(file.name):
            entry = found[file.name] = one.outcome(stage)
            stage.narrator.verdict(
                entry["refused_by"] == [entry["meant"]],
                f"{file.name}: refused by {entry['meant']}",
                f"{file.name}: meant {entry['meant']}, refused by {entry['refused_by']}",
            )
    summary.put("refused_by_policy", found)


def refuse_one(stage: Stage, name: str) -> dict[str, Any]:
    """Sign a next version of one of the refused examples and wait for the refusal of exactly that deployment."""
    file = next_version(stage, _REFUSED / name)
    one = _Refused.of(stage, file)
    _apply(stage, [file])
    return one.outcome(stage)


def allowed_one(stage: Stage) -> Callable[[], bool]:
    """Release the next version of one cell of the shop to both environments; returns how to wait until it runs there.

    What is returned says whether it does, all of it.
    """
    _release_next(stage, "catalogue")

    def runs() -> bool:
        try:
            _wait_next(stage, "catalogue", CLUSTERS)
        except StepFailedError:
            return False
        return True

    return runs


def _release_next(stage: Stage, cell: str) -> None:
    both = [word for environment in ENVIRONMENT.values() for word in ("--environment", environment)]
    stage.cli.run("apply", "-f", str(next_version(stage, _SHOP / f"{cell}.yaml")), *both)


def _wait_next(stage: Stage, cell: str, clusters: Iterable[str]) -> None:
    """Wait until a cell is ready as desired, and what is desired now is the deployment that was signed last."""
    for cluster in clusters:
        wait_for(f"the next version on {cluster}", partial(_ready, stage, cluster, cell), 60, stage.narrator)


def next_version(stage: Stage, file: Path) -> Path:
    """Write a copy of a cell's file with the next patch version; applying the same version again changes nothing."""
    text = file.read_text()
    stage.versions += 1

    def bump(found: re.Match[str]) -> str:
        return f"{found[1]}{int(found[2]) + stage.versions}"

    changed, count = re.subn(r"^(  version: \d+\.\d+\.)(\d+)$", bump, text, count=1, flags=re.MULTILINE)
    if count != 1:
        raise StepFailedError(f"{file.name} has no version like 1.2.3")
    copy = stage.directory / "next" / file.name
    copy.parent.mkdir(exist_ok=True)
    copy.write_text(changed)
    return copy


def deploy_next_version(stage: Stage, cell: str, cluster: str) -> None:
    """Release the next version of a cell of the shop to both environments, and wait until it runs on a cluster."""
    _release_next(stage, cell)
    _wait_next(stage, cell, [cluster])


def end_refused(stage: Stage) -> None:
    """End the refused cells by signed tombstones, so that what is left is what should be there."""
    names = [f"refused/{state['cell']}" for state in stage.api.cell_states("eu-1") if state["project"] == "refused"]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(lambda name: stage.cli.run("delete", name, "--environment", ENVIRONMENT["eu-1"]), names))

    def ended() -> bool:
        left = [state for state in stage.api.cell_states("eu-1") if state["project"] == "refused"]
        return all(state["phase"] == "removed" for state in left)

    wait_for("the refused cells to be ended", ended, 30, stage.narrator)
    stage.narrator.step("the refused cells are ended by signed tombstones")


def _apply(stage: Stage, files: Sequence[Path]) -> None:
    """Sign and upload cells that will be refused, all with one command."""
    named = [word for file in files for word in ("-f", str(file))]
    stage.cli.run("apply", *named, "--environment", ENVIRONMENT["eu-1"])


@dataclass(frozen=True)
class _Refused:
    """A cell that breaks one rule: its name, the rule, and what was desired of it before this."""

    name: str
    meant: str
    before: frozenset[str]

    @classmethod
    def of(cls, stage: Stage, file: Path) -> _Refused:
        """Read the file; it holds one cell, and names the rule in its first line."""
        text = file.read_text()
        meant = text.splitlines()[0].removeprefix("# refused-by:").strip()
        cells = [document for document in yaml.safe_load_all(text) if document["kind"] == "Cell"]
        if len(cells) != 1 or not meant.startswith("starter/"):
            raise StepFailedError(f"{file.name} must hold one cell and name the rule it breaks in its first line")
        name = str(cells[0]["metadata"]["name"])
        return cls(name, meant, frozenset(state["desiredDigest"] for state in stage.api.cell_states("eu-1", name)))

    def outcome(self, stage: Stage) -> dict[str, Any]:
        """Wait until exactly what was signed now is refused; returns what was meant, and the rules that did it."""

        def refusal() -> list[str] | None:
            for state in stage.api.cell_states("eu-1", self.name):
                fresh = state["desiredDigest"] not in self.before
                if fresh and state["phase"] == "refused" and state["acknowledged"] is False:
                    return sorted({r["rule"] or r["code"] for r in state["refusals"]})
            return None

        found = wait_for(f"{self.name} to be refused", refusal, 30, stage.narrator)
        return {"meant": self.meant, "refused_by": found}
