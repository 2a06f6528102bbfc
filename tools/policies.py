"""Checks of ``policies/``: one style, ``opa check --strict``, and each bundle's own tests.

Each folder of ``policies/`` is one bundle and is checked alone, as it will be loaded.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cellward.errors import CellwardError
from tools.parts.locate import path_of

POLICIES = Path(__file__).resolve().parents[1] / "policies"


def main(arguments: Sequence[str]) -> int:
    """Check every bundle, or with ``--write`` rewrite the Rego in OPA's style."""
    parser = argparse.ArgumentParser(prog="python -m tools.policies", description="Style and tests of the policies.")
    parser.add_argument("--write", action="store_true", help="rewrite in OPA's style instead of checking")
    write = parser.parse_args(arguments).write
    try:
        opa = str(path_of("opa"))
    except CellwardError as error:
        print(f"error: {error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    bundles = sorted(folder for folder in POLICIES.iterdir() if any(folder.rglob("*.rego")))
    return max((_bundle(opa, bundle, write=write) for bundle in bundles), default=0)


def _bundle(opa: str, bundle: Path, *, write: bool) -> int:
    if write:
        return subprocess.run([opa, "fmt", "--write", str(bundle)], check=False).returncode
    commands = (
        [opa, "fmt", "--list", "--fail", str(bundle)],
        [opa, "check", "--strict", str(bundle)],
        [opa, "test", "--timeout=60s", str(bundle)],
    )
    for command in commands:
        code = subprocess.run(command, check=False, stdout=sys.stderr).returncode
        if code:
            print(f"`{' '.join(command)}` ended with {code}", file=sys.stderr)
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
