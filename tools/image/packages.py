"""The Debian packages of the base: named here, pinned by hash in ``packages.json``, fetched by apt, and unpacked.

There is no shell, no dpkg and no program besides Python in them. ``pin`` writes the list from the lists of apt, which
the distribution signs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tools.image.errors import PACKAGE_DIFFERS, PACKAGES_GONE
from tools.parts.locate import cache_root
from tools.parts.progress import Ticker

#: What Python 3.11 and the wheels load, and the few files that programs look for.
NAMES: Final = (
    "base-files", "ca-certificates", "gcc-12-base", "libbz2-1.0", "libc6", "libcrypt1", "libexpat1", "libffi8",
    "libgcc-s1", "liblzma5", "libpython3.11-minimal", "libpython3.11-stdlib", "libsqlite3-0", "libssl3", "libstdc++6",
    "libuuid1", "media-types", "netbase", "python3.11-minimal", "tzdata", "zlib1g",
)  # fmt: skip
LIST: Final = Path(__file__).with_name("packages.json")
_URI: Final = re.compile(r"^'(?P<uri>\S+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})$", re.MULTILINE)
_SECONDS: Final = 300


@dataclass(frozen=True, slots=True)
class Package:
    """One pinned file of the distribution.

    Attributes:
        name: of the package.
        version: with its epoch.
        file: as apt names it.
        sha256: hexadecimal.
    """

    name: str
    version: str
    file: str
    sha256: str


def pinned(path: Path = LIST) -> list[Package]:
    """Return the pinned packages in the order of their names."""
    return [Package(**one) for one in json.loads(path.read_text())]


def pin(path: Path = LIST) -> list[Package]:
    """Write the list again from what apt offers on this machine and return it.

    Raises:
        CellwardError: image/packages-gone.
    """
    found = read_uris(_apt(["--print-uris", "download", *NAMES], Path("/")))
    missing = sorted(set(NAMES) - {one.name for one in found})
    if missing:
        raise PACKAGES_GONE(f"apt offers no file for {', '.join(missing)}")
    path.write_text(json.dumps([asdict(one) for one in found], indent=2) + "\n")
    return found


def read_uris(text: str) -> list[Package]:
    """Read what ``apt-get --print-uris download`` prints."""
    return sorted((_package(one["file"], one["sha256"]) for one in _URI.finditer(text)), key=lambda one: one.name)


def fetch(packages: Sequence[Package]) -> list[Path]:
    """Return the packages' files, from the cache or from apt, each checked against its hash.

    Raises:
        CellwardError: image/packages-gone, image/package-differs.
    """
    store = cache_root() / "images" / "debian"
    store.mkdir(parents=True, exist_ok=True)
    missing = [one for one in packages if not (store / f"{one.sha256}.deb").is_file()]
    if missing:
        ticker = Ticker(f"fetching {len(missing)} Debian packages (once; into the cache, not installed)")
        with tempfile.TemporaryDirectory(dir=store) as place:
            _apt(["download", *(f"{one.name}={one.version}" for one in missing)], Path(place))
            for one in missing:
                _check(Path(place) / one.file, one)
                (Path(place) / one.file).replace(store / f"{one.sha256}.deb")
        ticker.done("checked")
    files = [store / f"{one.sha256}.deb" for one in packages]
    for one, file in zip(packages, files, strict=True):
        _check(file, one)
    return files


def unpack(files: Sequence[Path], root: Path) -> None:
    """Unpack packages below a directory; no script of theirs is run."""
    for file in files:
        _run(["dpkg-deb", "-x", str(file), str(root)], root)


def _package(file: str, sha256: str) -> Package:
    name, version, _ = file.split("_")
    return Package(name, version.replace("%3a", ":"), file, sha256)


def _check(file: Path, package: Package) -> None:
    if not file.is_file():
        raise PACKAGES_GONE(f"apt fetched no {package.file}")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != package.sha256:
        raise PACKAGE_DIFFERS(f"{file} ({package.name}) has {found}, and {package.sha256} is pinned")


def _apt(arguments: Sequence[str], directory: Path) -> str:
    return _run(["apt-get", "-qq", *arguments], directory)


def _run(command: Sequence[str], directory: Path) -> str:
    if shutil.which(command[0]) is None:
        raise PACKAGES_GONE(f"there is no {command[0]} on this machine")
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=_SECONDS, check=False,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise PACKAGES_GONE(f"`{command[0]}` took longer than {_SECONDS} s") from error
    if done.returncode:
        raise PACKAGES_GONE(f"`{command[0]}` ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout
