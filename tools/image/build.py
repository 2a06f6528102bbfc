"""One image from the pinned packages, the pinned wheels and this tree.

Two layers: the base, which hub and agent share, and what is below ``/opt/cellward`` with the bytecode of the standard
library that a start imports. The image's own Python finishes its tree, from where it is unpacked.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tools.image import finish, oci
from tools.image.errors import NOT_FINISHED, WHEELS_GONE
from tools.image.finish import HOME, SIDES, Side
from tools.image.lock import lock_of
from tools.image.packages import fetch, pinned, unpack
from tools.image.sbom import sbom
from tools.parts.build import ensure_part
from tools.parts.locate import cache_root
from tools.parts.model import PARTS, ROOT
from tools.parts.own import program

USER: Final = "65532:65532"
CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"
#: The engine without what only debuggers read, half as large packed. Its own name: never one that lies on PATH.
ENGINE: Final = replace(PARTS["opa"], name="opa-stripped", ldflags="-s -w")
#: Parts of the packages that nothing here reads; of the documents only who may copy what is kept.
_UNUSED: Final = (
    "etc/update-motd.d",
    "usr/lib/python3.11/lib2to3",
    "usr/lib/python3.11/pydoc_data",
    "usr/lib/python3.11/test",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/sbin",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/zoneinfo/posix",
    "usr/share/zoneinfo/right",
)
_ACCOUNTS: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/nonexistent\ncellward:x:65532:65532::/nonexistent:/nonexistent\n",
    "etc/group": "root:x:0:\ncellward:x:65532:\n",
}
#: The prober by itself, for who would not have the agent's image pulled into the namespaces of cells.
PROBER: Final = Side("prober", (), (), "Measures from inside a cell which packets get through.")
NAMES: Final = (*sorted(SIDES), PROBER.name)
#: A change of what is done to the base or to the wheels makes another directory in the cache.
_RECIPE: Final = "1"
_LIBRARIES: Final = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")


@dataclass(frozen=True, slots=True)
class Built:
    """One image: its archive with its digest, and the list of what is inside as CycloneDX JSON."""

    image: oci.Image
    sbom: bytes


def configuration(side: Side, version: str) -> dict[str, Any]:
    """Return the ``config`` object of an image; ``Dockerfile`` says the same."""
    return {
        "User": USER,
        "WorkingDir": "/",
        "Env": [f"PATH={HOME}/bin:/usr/bin", f"SSL_CERT_FILE={CERTIFICATES}"],
        "Entrypoint": [side.program],
        "Labels": {
            "org.opencontainers.image.title": side.program,
            "org.opencontainers.image.description": side.title,
            "org.opencontainers.image.licenses": "Apache-2.0",
            "org.opencontainers.image.version": version,
        },
    }


def version() -> str:
    """Return the version of this tree."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def build(name: str, repository: str) -> Built:
    """Make one image.

    Args:
        name: ``hub``, ``agent`` or ``prober``.
        repository: what it is called, without a tag.

    Raises:
        CellwardError: image/packages-gone, image/package-differs, image/wheels-gone, image/not-finished, parts/….
    """
    if name == PROBER.name:
        return _prober(repository)
    side = SIDES[name]
    root = base()
    with tempfile.TemporaryDirectory(prefix="cellward-image-") as place:
        tree = Path(place)
        installed = assemble(side, root, tree)
        layers = [oci.layer_of(root), oci.layer_of(tree)]
    found = oci.image([f"{repository}:{version()}"], layers, configuration(side, version()))
    return Built(found, sbom(side, version(), pinned(), installed))


def _prober(repository: str) -> Built:
    """The program alone: it needs no file of a system, so that a node fetches two megabytes."""
    # Where it is in the agent's image too: pods name one path, whichever image they are given.
    path = f"{HOME}/bin/{PROBER.name}"
    layers = [oci.layer({}, {path: program(PROBER.name).read_bytes()})]
    found = configuration(PROBER, version()) | {"Env": [], "Entrypoint": [path]}
    return Built(oci.image([f"{repository}:{version()}"], layers, found), sbom(PROBER, version(), (), ()))


def base() -> Path:
    """Return the unpacked base, from the cache or made of the pinned packages."""
    packages = pinned()
    key = _key(_RECIPE, *(one.sha256 for one in packages), *_UNUSED, *_ACCOUNTS.values())

    def make(root: Path) -> None:
        unpack(fetch(packages), root)
        for name in _UNUSED:
            shutil.rmtree(root / name, ignore_errors=True)
        for path in (root / "usr/share/doc").rglob("*"):
            if not path.is_dir() and path.name != "copyright":
                path.unlink()
        sources = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
        texts = {CERTIFICATES.lstrip("/"): "".join(one.read_text() for one in sources)} | _ACCOUNTS
        for name, text in texts.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)

    return _cached("base", key, make)


def assemble(side: Side, root: Path, tree: Path) -> list[str]:
    """Make all that is above the base in ``tree``, as a tree from ``/``; return the names of the installed wheels.

    Args:
        side: which image.
        root: the unpacked base.
        tree: an empty directory.
    """
    home = tree / HOME.relative_to("/")
    library = home / "lib"
    shutil.copytree(wheels(side), library, symlinks=True)
    installed = sorted(path.name.rpartition(".")[0] for path in library.glob("*.dist-info"))
    for package in side.packages:
        shutil.copytree(ROOT / package, library / package, ignore=shutil.ignore_patterns("__pycache__"))
    _finish(side, root, tree)
    if side.opa:
        shutil.copyfile(ensure_part(ENGINE), home / "bin" / "opa")
        (home / "bin" / "opa").chmod(0o755)
    if side.prober:
        shutil.copyfile(program(PROBER.name), home / "bin" / PROBER.name)
        (home / "bin" / PROBER.name).chmod(0o755)
    return installed


def wheels(side: Side) -> Path:
    """Return the directory into which the wheels of a side are installed, each at its pinned hash."""
    lock = lock_of(side.name)

    def make(root: Path) -> None:
        command = [
            str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--target", str(root),
            "--require-hashes", "--no-deps", "--only-binary", ":all:", "--python-version", "3.11",
            "--python-platform", "x86_64-manylinux_2_28", "--no-compile-bytecode", "--link-mode", "copy",
            "--requirement", str(lock),
        ]  # fmt: skip
        if subprocess.run(command, check=False).returncode:
            raise WHEELS_GONE(f"the wheels of {lock.name} were not installed")

    return _cached(f"wheels-{side.name}", _key(_RECIPE, lock.read_text()), make)


def python(root: Path) -> tuple[Sequence[str], Mapping[str, str]]:
    """Return the command and the whole environment that run the Python of an unpacked base where it lies."""
    loader = root / "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    libraries = ":".join(str(root / path) for path in _LIBRARIES)
    command = [str(loader), "--library-path", libraries, str(root / "usr/bin/python3.11"), "-S", "-B"]
    return command, {"PYTHONHOME": str(root / "usr"), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}


def _finish(side: Side, root: Path, tree: Path) -> None:
    command, environment = python(root)
    arguments = [finish.__file__, side.name, str(tree / HOME.relative_to("/")), "--standard", str(tree)]
    try:
        code = subprocess.run([*command, *arguments], env=environment, check=False, stdout=sys.stderr).returncode
    except OSError as error:
        raise NOT_FINISHED(f"the Python of the image does not start here: {error.strerror}") from error
    if code:
        raise NOT_FINISHED(f"{side.name}: finish.py ended with {code}")


def _cached(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return a directory of the cache; it appears whole, by a rename, or not at all."""
    target = cache_root() / "images" / f"{kind}-{key}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        fresh = Path(place) / "tree"
        fresh.mkdir()
        make(fresh)
        try:
            fresh.replace(target)
        except OSError:
            # Another command was faster with the same content.
            if not target.is_dir():
                raise
    return target


def _key(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def write(built: Built, directory: Path, name: str) -> Path:
    """Write the archive and the list of what is inside; return the archive's path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.tar"
    for target, data in ((path, built.image.archive), (directory / f"{name}.cdx.json", built.sbom)):
        fresh = target.with_name(f"{target.name}.{os.getpid()}.new")
        fresh.write_bytes(data)
        fresh.replace(target)
    return path
