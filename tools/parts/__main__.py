"""Command line: ``python -m tools.parts ensure opa etcd``, ``path opa``, ``list``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cellward.errors import CellwardError
from tools.parts.build import ensure
from tools.parts.locate import cached_binary, locate, path_of
from tools.parts.model import PARTS, WHEELS


def main(arguments: Sequence[str]) -> int:
    """Run one command; data on stdout, the rest on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tools.parts", description="Find or build the real parts we run.")
    commands = parser.add_subparsers(dest="command", required=True)
    get = commands.add_parser("ensure", help="find or build parts; without names: what every machine needs")
    get.add_argument("names", nargs="*", metavar="PART")
    where = commands.add_parser("path", help="print where a part is; never builds")
    where.add_argument("name", metavar="PART")
    commands.add_parser("list", help="list the parts, their pinned versions and where they are")
    options = parser.parse_args(arguments)
    try:
        if options.command == "ensure":
            for name, binary in ensure(
                options.names or [*(part.name for part in PARTS.values() if part.ordinary), *WHEELS]
            ).items():
                print(f"{name}\t{binary}")
        elif options.command == "path":
            print(path_of(options.name))
        else:
            _list()
    except CellwardError as error:
        print(f"error: {error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted; what was built stays, the rest is built next time", file=sys.stderr)
        return 130
    return 0


def _list() -> None:
    for part in PARTS.values():
        found = locate(part)
        where = str(found) if found else f"to be built into {cached_binary(part).parent}"
        print(f"{part.name}\t{part.version}\t{where}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
