"""Command line: ``python -m tools.image build agent hub``, ``pin``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cellward.errors import CellwardError
from tools.image.build import NAMES, build, write
from tools.parts.model import ROOT
from tools.parts.progress import Ticker


def main(arguments: Sequence[str]) -> int:
    """Run one command; data on stdout, the rest on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tools.image", description="Make the images, and pin their bases.")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("build", help="make OCI archives; prints name, digest, megabytes and file")
    make.add_argument("names", nargs="*", metavar="IMAGE", help=f"of {', '.join(NAMES)}; without names: all")
    make.add_argument("--out", type=Path, default=ROOT / "dist", help="directory for the archives")
    make.add_argument("--repository", default="cellward.local", help="what comes before /hub, /agent and /prober")
    make.add_argument("--key", type=Path, help="PEM file of an ECDSA P-256 key to sign the digests with")
    commands.add_parser("pin", help="pin the Debian packages and the digests of the Dockerfile's bases")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(getattr(options, "names", ())) - set(NAMES)):
        parser.error(f"no image is called {', '.join(unknown)}")
    try:
        return _pin() if options.command == "pin" else _build(options)
    except CellwardError as error:
        print(f"error: {error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted; what is in the cache stays", file=sys.stderr)
        return 130


def _build(options: argparse.Namespace) -> int:
    from tools.image.signature import load_key, payload, sign

    key = load_key(options.key) if options.key else None
    for name in options.names or NAMES:
        repository = f"{options.repository}/{name}"
        ticker = Ticker(f"making the image of the {name}")
        built = build(name, repository)
        path = write(built, options.out, name)
        if key is not None:
            data = payload(repository, built.image.digest)
            path.with_suffix(".payload.json").write_bytes(data)
            path.with_suffix(".sig").write_bytes(sign(data, key))
        ticker.done("written")
        print(f"{name}\t{built.image.digest}\t{len(built.image.archive) / 1e6:.1f}\t{path}")
    return 0


def _pin() -> int:
    from tools.image.bases import pin_bases
    from tools.image.packages import pin

    packages = pin()
    print(f"{len(packages)} Debian packages pinned", file=sys.stderr)
    for reference in pin_bases(ROOT / "Dockerfile"):
        print(f"pinned {reference}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
