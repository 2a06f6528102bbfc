"""One cluster with real nodes, a hub beside it and policy published: the ground of tests and benchmarks of pods.

The agent is not installed yet: how is what they are about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import yaml

from tools.demo import real
from tools.demo import stage as stages
from tools.demo.agents import PodAgent
from tools.demo.kubectl import Kubectl
from tools.demo.narrate import Narrator
from tools.demo.stage import ROOT, Stage
from tools.stack.chart import AGENT_NAMESPACE
from tools.stack.control_plane import BlockingControlPlane
from tools.stack.node import dns, images, storage
from tools.stack.node.ground import Ground


@contextmanager
def open_one(name: str, program: str, ports: Sequence[int], *, nodes: int = 1) -> Iterator[Stage]:
    """Start nodes and hub, log in, make keys, publish the starter policy, name the agent's image in trust.yaml.

    Args:
        name: of the cluster.
        program: the image that cells run, which a program of ours stands in for.
        ports: on which it answers.
        nodes: how many.

    Raises:
        CellwardError: stack/no-node and whatever else a part says that does not start.
    """
    with stages.open_stage(Narrator(), real.REAL) as stage:
        directory = stage.directory / "images"
        ours, agent = images.ours("agent")
        archives = (images.pause(directory), dns.archive(directory), ours)
        stand_in = images.stand_in(directory, "program", [program], ports)
        stage.images = real.Images((*archives, stand_in), agent, frozenset())
        plane = BlockingControlPlane(name, stage.directory / "planes" / name, nodes=nodes, ground=Ground(1))
        plane.images = stage.images.archives
        with plane:
            stage.planes[name] = plane
            stage.kubectl[name] = Kubectl(plane.kubeconfig_admin)
            _furnish(stage, name)
            stages.start_hub(stage)
            _set_up(stage)
            yield stage


def _furnish(stage: Stage, name: str) -> None:
    plane, state = stage.planes[name], stage.agent_directory(name) / "state"
    dns.install(plane.admin)
    storage.install(plane.admin)
    state.parent.mkdir(mode=0o711, parents=True)
    claim = (AGENT_NAMESPACE, "cellward-agent-state")
    storage.offer(plane.admin, "agent-state", plane.real[0].name, state, claim)
    stage.agents[name] = PodAgent(name, plane, stage.kubectl[name])


def _set_up(stage: Stage) -> None:
    ca, token = stage.directory / "hub-ca.pem", stage.hub_data / "admin.token"
    stage.cli.run("login", "--server", f"https://{stage.api_address}", "--ca-file", str(ca), "--token-file", str(token))
    stage.cli.run("init", "--no-passphrase", "--owner", "tests")
    stage.cli.run("policy", "publish", str(ROOT / "policies"))
    trust = stage.home / "trust.yaml"
    image = stage.images.agent if stage.images is not None else ""
    trust.write_text(yaml.safe_dump({**yaml.safe_load(trust.read_text()), "image": image}))
