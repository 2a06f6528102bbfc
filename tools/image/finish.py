"""The last step of ``/opt/cellward``, once wheels and our own packages lie there: by ``Dockerfile`` and by this tool.

Run by the Python the image will have, before anything is installed: standard library only, and nothing else of ours.
``python3 finish.py agent /opt/cellward`` removes what nothing imports, writes the program for ``PATH``, and compiles
exactly the modules that a start imports: an image is read-only, so what is not compiled here is compiled at each start.
"""

from __future__ import annotations

import argparse
import importlib
import os
import py_compile
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

#: Where it lies in the image, whatever directory it is made in.
HOME = PurePosixPath("/opt/cellward")
PYTHON = "/usr/bin/python3.11"
_PROGRAM = """#!{python} -IBu
import sys

sys.path.insert(0, "{home}/lib")
from {package}.__main__ import main

sys.exit(main())
"""
#: What installers write about themselves and the order they worked in.
_OF_INSTALLERS = ("bin", ".lock", "*.dist-info/INSTALLER", "*.dist-info/RECORD", "*.dist-info/REQUESTED",
                  "*.dist-info/direct_url.json")  # fmt: skip
#: What only compilers and editors read.
_OF_SOURCES = ("*.pyi", "*.pyx", "*.pxd", "*.c", "*.h", "__pycache__")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the images.

    Attributes:
        name: of the image and of its lock below ``requirements``.
        packages: ours, below ``lib``.
        imports: what a start imports.
        title: one line for its label.
        opa: the policy engine is inside.
        prober: the prober is inside.
        removed: paths below ``lib``, as globs, that nothing it runs imports.
        first: a function ``module:name`` to call after the imports, which imports more.
    """

    name: str
    packages: tuple[str, ...]
    imports: tuple[str, ...]
    title: str
    opa: bool = False
    prober: bool = False
    removed: tuple[str, ...] = ()
    first: str = ""

    @property
    def program(self) -> str:
        """Its name on ``PATH``."""
        return f"cellward-{self.name}"


SIDES = {
    side.name: side
    for side in (
        Side("hub", ("cellward", "hub"), ("hub.__main__", "hub.app", "hub.keeping"), "The Cellward control plane."),
        Side(
            "agent",
            ("cellward", "agent"),
            ("agent.__main__", "agent.app"),
            "The Cellward agent of one cluster, with its policy engine and its prober.",
            opa=True,
            prober=True,
            # The agent uses the asynchronous client alone, without its 1,500 classes: objects are plain values.
            removed=(
                *(f"kubernetes/{name}" for name in ("client", "dynamic", "informer", "leaderelection", "stream")),
                "kubernetes/watch",
                *(f"kubernetes/aio/{name}" for name in ("dynamic", "leaderelection", "stream", "watch", "client/api")),
                "kubernetes/aio/client/models/[!_]*",
            ),
            first="agent.kube.library:load_library",
        ),
    )
}


def finish(side: Side, tree: Path, standard: Path | None = None) -> int:
    """Finish one tree and return how many modules were compiled.

    Args:
        side: which image it is for.
        tree: what will be ``/opt/cellward``; our packages and the wheels are in its ``lib``.
        standard: where to put bytecode of the standard library, as a tree from ``/``; nowhere if None.
    """
    library = tree / "lib"
    for pattern in (*_OF_INSTALLERS, *side.removed):
        for path in library.glob(pattern):
            _remove(path)
    for pattern in _OF_SOURCES:
        for path in list(library.rglob(pattern)):
            _remove(path)
    program = tree / "bin" / side.program
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(_PROGRAM.format(python=PYTHON, home=HOME, package=side.packages[-1]))
    program.chmod(0o755)
    _import(side, library)
    return _compile(library, standard)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _import(side: Side, library: Path) -> None:
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(library))
    for name in side.imports:
        importlib.import_module(name)
    module, _, function = side.first.partition(":")
    if module:
        getattr(importlib.import_module(module), function)()


def _compile(library: Path, standard: Path | None) -> int:
    count = 0
    inside = PurePosixPath(sysconfig.get_path("stdlib"))
    for source in _sources():
        if source.is_relative_to(library):
            name = HOME / "lib" / source.relative_to(library)
            target = source.parent
        elif standard is not None and source.is_relative_to(inside):
            name = PurePosixPath("/usr/lib/python3.11") / source.relative_to(inside)
            target = standard / name.parent.relative_to("/")
        else:
            continue
        tag = sys.implementation.cache_tag
        # Unchecked: neither times nor sizes are in it, and nothing compares it with the source at a start.
        py_compile.compile(
            str(source),
            cfile=str(target / "__pycache__" / f"{source.stem}.{tag}.pyc"),
            dfile=str(name),
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        count += 1
    return count


def _sources() -> Iterator[Path]:
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    yield from sorted(Path(file) for file in files if file and file.endswith(".py"))


def main() -> int:
    """Finish one tree."""
    parser = argparse.ArgumentParser(prog="finish.py", description="Finish what will be /opt/cellward in an image.")
    parser.add_argument("side", choices=sorted(SIDES))
    parser.add_argument("tree", type=Path)
    parser.add_argument("--standard", type=Path, help="also compile the standard library, into this tree")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets are written into bytecode in the order of their hashes.
        print("error: run it with PYTHONHASHSEED=0, or two builds differ", file=sys.stderr)
        return 2
    count = finish(SIDES[options.side], options.tree.resolve(), options.standard)
    print(f"{options.side}: {count} modules compiled")
    return 0


if __name__ == "__main__":
    sys.exit(main())
