"""Real nodes under the demonstration, where the machine can have them, with stand-ins for the shop's public images."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tools.demo.narrate import StepFailedError
from tools.parts.own import standin
from tools.parts.packages import ensure_packages
from tools.stack.node import dns, images, lab

#: What a person chooses with NODES=…
SIMULATED, REAL = "simulated", "real"
PARTS = ("kubelet", "kube-proxy", "kube-router", "coredns")


def chosen() -> str:
    """Return which nodes are wanted: simulated ones unless ``NODES=real``.

    Raises:
        StepFailedError: another word, or real ones where they cannot be.
    """
    wanted = os.environ.get("NODES") or SIMULATED
    if wanted not in {SIMULATED, REAL}:
        raise StepFailedError(f"NODES={wanted} is neither {SIMULATED} nor {REAL}")
    if wanted == REAL and (reason := lab.impossible()):
        raise StepFailedError(f"NODES={REAL}: {reason}")
    return wanted


def enter_laboratory(begun: float) -> None:
    """Begin again in a network namespace of its own, once everything is fetched: there is no network in it.

    Returns only where this process is in it already.
    """
    if lab.inside():
        return
    standin()
    ensure_packages()
    os.environ["CELLWARD_STARTED"] = str(begun)
    lab.enter([sys.executable, "-m", "tools.demo"])


def archives(directory: Path, shop: Path) -> list[Path]:
    """Write the images that the nodes are given: pods' own, DNS, and a stand-in for each program of the shop."""
    made = [images.pause(directory), dns.archive(directory)]
    for number, (reference, ports) in enumerate(_programs(shop)):
        made.append(images.stand_in(directory, f"standin-{number}", [reference], ports))
    return made


def _programs(shop: Path) -> Iterator[tuple[str, list[int]]]:
    """(image, ports of the pod) of each component of the shop's cells."""
    for file in sorted(shop.glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            components: dict[str, Any] = (document or {}).get("spec", {}).get("components", {})
            for component in components.values():
                yield component["image"], [port["port"] for port in component.get("ports", {}).values()]
