"""``python -m tools.stack.node.prepare``: build and fetch what real nodes need, while there is a network.

Where this machine cannot have real nodes it says why and does nothing: whoever needs one says it again.
"""

from __future__ import annotations

import sys

from tools.parts.build import ensure
from tools.parts.own import program
from tools.parts.packages import ensure_packages
from tools.stack.node import images
from tools.stack.node.lab import impossible

#: Parts beside those of a control plane.
PARTS = ("kubelet", "kube-proxy", "kube-router", "coredns", "helm", "kubectl")


def prepare(*ours: str) -> None:
    """Make everything ready; ``ours`` are names of our own images."""
    ensure(PARTS)
    program("standin")
    ensure_packages()
    for name in ours:
        images.ours(name)


if __name__ == "__main__":
    if reason := impossible():
        print(f"real nodes: none here, {reason}", file=sys.stderr)
    else:
        prepare("hub", "agent")
