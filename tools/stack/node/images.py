"""The images of a real node that no registry is asked for: what holds a pod, stand-ins for public programs, our own."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tools.image import oci
from tools.image.build import build, write
from tools.image.finish import SIDES
from tools.image.lock import lock_of
from tools.image.oci import image, layer
from tools.parts import model
from tools.parts.locate import cache_root
from tools.parts.model import ROOT
from tools.parts.own import locked, program, sources, state_of
from tools.parts.progress import Ticker
from tools.stack.node.config import PAUSE

#: Who the programs are where the pod says nothing.
_USER = "65532:65532"
#: Registry of our own images here; nobody answers there.
_REGISTRY: Final = "cellward.local"
#: How many states of each image stay in the cache beside the newest.
_KEPT: Final = 3
_NAME: Final = "io.containerd.image.name"


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


def ours(name: str) -> tuple[Path, str]:
    """Return one of our own images, made once for each state of this tree; then it needs the network and half a minute.

    Args:
        name: ``hub`` or ``agent``.

    Returns:
        The archive in the cache, and ``repository@sha256:…`` by which pods name the image.
    """
    repository = f"{_REGISTRY}/{name}"
    place = cache_root() / "images" / "built" / f"{name}-{_state_of(name)}"
    archive = place / f"{name}.tar"
    if not archive.is_file():
        with locked(place):
            if not archive.is_file():
                _forget_older(place.parent, name)
                ticker = Ticker(f"making the image of the {name} (once for each state of this tree)")
                write(build(name, repository), place, name)
                ticker.done(f"made in {place}")
    ((_, digest),) = names_in(archive)
    return archive, f"{repository}@{digest}"


def _state_of(name: str) -> str:
    """Name the state of all that an image is made of."""
    side = SIDES[name]
    trees = [ROOT / package for package in side.packages] + [Path(oci.__file__).parent]
    files = [file for tree in trees for file in tree.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    files += sources("prober") if side.prober else []
    # Which OPA is inside.
    files += [Path(model.__file__)] if side.opa else []
    return state_of([*files, lock_of(name), ROOT / "pyproject.toml"])


def _forget_older(places: Path, name: str) -> None:
    """Keep a few states of the tree: an image has fifty megabytes."""
    older = sorted(places.glob(f"{name}-*"), key=lambda place: place.stat().st_mtime)
    for place in older[:-_KEPT]:
        shutil.rmtree(place, ignore_errors=True)


def names_in(archive: Path) -> Iterator[tuple[str, str]]:
    """(name, digest of the manifest) of each image of an archive."""
    with tarfile.open(archive) as tar:
        index = tar.extractfile("index.json")
        found = json.load(index) if index is not None else {"manifests": []}
    for manifest in found["manifests"]:
        yield manifest["annotations"][_NAME], manifest["digest"]


def _write(directory: Path, name: str, references: Sequence[str], entrypoint: Sequence[str]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {"User": _USER, "Entrypoint": list(entrypoint)}
    made = image(references, [layer({}, {"/standin": program("standin").read_bytes()})], config)
    path = directory / f"{name}.tar"
    path.write_bytes(made.archive)
    return path
