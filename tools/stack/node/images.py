"""The images of a real node that no registry is asked for: what holds a pod, and stand-ins for public programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.image.oci import image, layer
from tools.parts.own import standin
from tools.stack.node.config import PAUSE

#: Who the programs are where the pod says nothing.
_USER = "65532:65532"


def pause(directory: Path) -> Path:
    """Write the archive of the container that holds the namespaces of a pod."""
    return _write(directory, "pause", [PAUSE], ["/standin", "pause"])


def stand_in(directory: Path, name: str, references: Sequence[str], ports: Sequence[int]) -> Path:
    """Write the archive of a program that listens on these ports and calls what its environment names.

    Args:
        directory: where it is written.
        name: of the file.
        references: the images it stands in for, with their tags.
        ports: of the pod.
    """
    return _write(directory, name, references, ["/standin", "serve", *map(str, ports)])


def _write(directory: Path, name: str, references: Sequence[str], entrypoint: Sequence[str]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {"User": _USER, "Entrypoint": list(entrypoint)}
    made = image(references, [layer({}, {"/standin": standin().read_bytes()})], config)
    path = directory / f"{name}.tar"
    path.write_bytes(made.archive)
    return path
