"""Builds the light load (``bench/load``, Go) once for each state of its sources. ``python -m bench.build [--check]``.

Message types are generated from ``protos/`` into the copy that is built, so none are in the tree. The cache is that of
``tools.parts``; the version of the program is the digest of what it is built from.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tools.parts import own

_ROOT = Path(__file__).resolve().parents[1]
_SOURCES = _ROOT / "bench" / "load"
_PROTOS = _ROOT / "protos"
#: Import path of the generated package.
_MODULE = "cellward.dev/load"
_GENERATOR = "google.golang.org/protobuf/cmd/protoc-gen-go"


def load_binary() -> Path:
    """Return the program, built when its sources are new; RuntimeError when there is no Go or it does not build."""
    place = _place()
    binary = place / "load"
    if binary.is_file():
        return binary
    with own.locked(place):
        if not binary.is_file():
            sys.stderr.write("bench: building the light load (once for each state of its sources, 15 s to 1 min)\n")
            source = _prepared(place)
            own.go(source, "build", "-mod=readonly", "-trimpath", "-o", str(place / "load.new"), ".")
            (place / "load.new").replace(binary)
    return binary


def check() -> list[str]:
    """Return what ``gofmt`` and ``go vet`` say against our own sources; nothing where there is no Go."""
    if shutil.which("go") is None:
        return []
    found = own.run(["gofmt", "-l", str(_SOURCES), *map(str, own.modules())], _ROOT).split()
    if found:
        return [f"not formatted (run gofmt -w): {name}" for name in found]
    place = _place()
    with own.locked(place):
        try:
            own.go(_prepared(place), "vet", "./...")
            for module in own.modules():
                own.go(module, "vet", "./...")
        except RuntimeError as error:
            return [str(error)]
    return []


def _place() -> Path:
    return own.place_of("load", [*_SOURCES.glob("*.go"), *_SOURCES.glob("go.*"), *_PROTOS.rglob("*.proto")])


def _prepared(place: Path) -> Path:
    """Return a copy of the sources with the generated message types in it; the lock is held."""
    source = place / "src"
    if (source / "wire" / "link.pb.go").is_file():
        return source
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(_SOURCES, source)
    generator = place / "protoc-gen-go"
    own.go(source, "build", "-mod=readonly", "-o", str(generator), _GENERATOR)
    protos = [str(file.relative_to(_PROTOS)) for file in sorted(_PROTOS.rglob("*.proto"))]
    own.run(
        [
            sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={_PROTOS}", f"--plugin=protoc-gen-go={generator}",
            f"--go_out={source}", f"--go_opt=module={_MODULE}",
            *(f"--go_opt=M{name}={_MODULE}/wire" for name in protos), *protos,
        ],
        _ROOT,
    )  # fmt: skip
    return source


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        problems = check()
        sys.stderr.write("".join(f"{problem}\n" for problem in problems))
        sys.exit(bool(problems))
    print(load_binary())
