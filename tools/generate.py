"""Files that are made from other files: made again, or compared with what is committed (``--check``).

Each generator writes below a directory it is given, at the paths the files have in the tree. A check generates into
a temporary directory and shows the difference, so it never touches the tree.
"""

from __future__ import annotations

import argparse
import difflib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
Generator = Callable[[Path], None]


def stubs(out: Path) -> None:
    """Python stubs of ``protos/``; a proto's path is the Python path, so the imports work unchanged."""
    protos = sorted(str(file.relative_to(ROOT / "protos")) for file in (ROOT / "protos").rglob("*.proto"))
    outputs = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    # The mypy plug-ins are programs beside this interpreter, which need not be on PATH.
    plugins = [
        f"--plugin=protoc-gen-{name}={Path(sys.executable).with_name(f'protoc-gen-{name}')}"
        for name in ("mypy", "mypy_grpc")
    ]
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"--proto_path={ROOT / 'protos'}",
        *plugins,
        *outputs,
        *protos,
    ]
    # The plug-ins narrate every file; what they say matters only when something fails.
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.stderr.write(done.stderr)
        sys.exit(done.returncode)


def openapi(out: Path) -> None:
    """Write the admin API's OpenAPI document."""
    from hub.api.app import openapi_document

    target = out / "docs" / "reference" / "openapi.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(openapi_document(), indent=2, sort_keys=True, ensure_ascii=False) + "\n")


GENERATORS: Sequence[Generator] = (stubs, openapi)


def main(arguments: Sequence[str]) -> int:
    """Generate into the tree, or with ``--check`` tell what would change (exit code 1)."""
    parser = argparse.ArgumentParser(prog="python -m tools.generate", description="Generated files.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail when something would change")
    if not parser.parse_args(arguments).check:
        for generator in GENERATORS:
            generator(ROOT)
        return 0
    with tempfile.TemporaryDirectory(prefix="cellward-generate-") as directory:
        fresh = Path(directory)
        for generator in GENERATORS:
            generator(fresh)
        stale = [file for file in sorted(fresh.rglob("*")) if file.is_file() and _differs(file, fresh)]
    for file in stale:
        print(f"stale: {file.relative_to(fresh)}", file=sys.stderr)
    if stale:
        print("run `make gen` and commit the result", file=sys.stderr)
    return 1 if stale else 0


def _differs(file: Path, fresh: Path) -> bool:
    committed = ROOT / file.relative_to(fresh)
    new = file.read_text()
    old = committed.read_text() if committed.is_file() else ""
    if new == old:
        return False
    shown = difflib.unified_diff(old.splitlines(), new.splitlines(), "committed", "generated", lineterm="", n=1)
    print("\n".join(list(shown)[:20]), file=sys.stderr)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
