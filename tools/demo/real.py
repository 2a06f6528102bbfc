"""Real nodes under the demonstration, where the machine can have them, with stand-ins for the shop's public images."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools.demo.narrate import Narrator, StepFailedError
from tools.stack.node import dns, images, lab, prepare

#: What a person chooses with NODES=…
SIMULATED, REAL = "simulated", "real"


@dataclass(frozen=True, slots=True)
class Images:
    """What real nodes run.

    Attributes:
        archives: OCI archives, given to every node before it is ready.
        agent: our agent's image, by digest.
        stand_ins: digests of the images that stand in for the shop's programs.
    """

    archives: tuple[Path, ...]
    agent: str
    stand_ins: frozenset[str]


def chosen(narrator: Narrator) -> str:
    """Return which nodes are used: real ones where they can be, or what ``NODES`` asks for.

    Raises:
        StepFailedError: another word, or real ones where they cannot be.
    """
    wanted, reason = os.environ.get("NODES", ""), lab.impossible()
    if wanted not in {"", SIMULATED, REAL}:
        raise StepFailedError(f"NODES={wanted} is neither {SIMULATED} nor {REAL}")
    if wanted == REAL and reason:
        raise StepFailedError(f"NODES={REAL}: {reason}")
    if not wanted and reason and not lab.inside():
        narrator.step(f"nodes are simulated by kwok, no container starts and no packet flows: {reason}")
    return wanted or (SIMULATED if reason else REAL)


def enter_laboratory(begun: float) -> None:
    """Begin again in a network namespace of its own, once everything is fetched: there is no network in it.

    Returns only where this process is in it already.
    """
    if lab.inside():
        return
    prepare.prepare("agent")
    os.environ["CELLWARD_STARTED"] = str(begun)
    lab.enter([sys.executable, "-m", "tools.demo"])


def make_images(directory: Path, shop: Path) -> Images:
    """Make the images that the nodes are given: pods' own, DNS, our agent, a stand-in for each program of the shop."""
    ours, agent = images.ours("agent")
    stand_ins = [
        images.stand_in(directory, f"standin-{number}", [reference], ports)
        for number, (reference, ports) in enumerate(_programs(shop))
    ]
    digests = frozenset(digest for archive in stand_ins for _, digest in images.names_in(archive))
    return Images((images.pause(directory), dns.archive(directory), ours, *stand_ins), agent, digests)


def kind_of_programs(pods: Iterable[Mapping[str, Any]], stand_ins: frozenset[str]) -> str:
    """``stand-in`` when every container that runs is of an image of ours, ``public`` when none is.

    ``simulated`` when none has an image at all: no container runtime says what it runs.
    """
    kinds = set()
    for pod in pods:
        for status in pod.get("status", {}).get("containerStatuses", []):
            image = str(status.get("imageID", ""))
            kinds.add("simulated" if not image else "stand-in" if image.rpartition("@")[2] in stand_ins else "public")
    return kinds.pop() if len(kinds) == 1 else "mixed or none"


def _programs(shop: Path) -> Iterator[tuple[str, list[int]]]:
    """(image, ports of the pod) of each component of the shop's cells."""
    for file in sorted(shop.glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            components: dict[str, Any] = (document or {}).get("spec", {}).get("components", {})
            for component in components.values():
                yield component["image"], [port["port"] for port in component.get("ports", {}).values()]
