"""Python stubs of ``protos/``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tools.generate.page import ROOT


def stubs(out: Path) -> None:
    """Write the stubs; a proto's path is the Python path, so the imports work unchanged."""
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
