"""Files that are made from other files: made again, or compared with what is committed (``--check``).

Each generator writes below a directory it is given, at the paths the files have in the tree. A check generates into
a temporary directory and shows the difference, so it never touches the tree.
"""

from __future__ import annotations

import argparse
import difflib
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from cellward.errors import CellwardError
from tools.generate import api, audit, cells, charts, checks, cli, errors, machines, metrics, policy, protos, settings
from tools.generate.page import ROOT

Generator = Callable[[Path], None]

GENERATORS: Sequence[Generator] = (
    protos.stubs,
    api.openapi,
    api.page,
    settings.pages,
    cli.page,
    metrics.page,
    machines.pages,
    cells.page,
    audit.page,
    checks.page,
    errors.page,
    errors.hints,
    policy.page,
    charts.schemas,
    charts.pages,
)


def main(arguments: Sequence[str]) -> int:
    """Generate into the tree, or with ``--check`` tell what would change (exit code 1)."""
    parser = argparse.ArgumentParser(prog="python -m tools.generate", description="Generated files.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail when something would change")
    check = parser.parse_args(arguments).check
    try:
        return _check() if check else _write()
    except CellwardError as error:
        print(f"error: {error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code


def _write() -> int:
    for generator in GENERATORS:
        generator(ROOT)
    return 0


def _check() -> int:
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
