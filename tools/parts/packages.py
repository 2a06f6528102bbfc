"""Programs of a real node from Debian packages: fetched and checked by apt, unpacked into the cache, never installed.

To install them could remove what the person's machine runs already (Debian's containerd replaces another one). They run
from where they are unpacked, with ``environment`` around them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tools.parts.errors import PACKAGES_MISSING
from tools.parts.locate import cache_root
from tools.parts.progress import Ticker

#: What a node runs, and what it calls.
NODE_PACKAGES: Final = (
    "containerd",
    "runc",
    "containernetworking-plugins",
    "iptables",
    "ipset",
    "nftables",
    "iproute2",
    "busybox-static",
)
#: Names under which the one program of iptables is called; its package makes these links when it is installed.
_IPTABLES: Final = [f"{tool}{what}" for tool in ("iptables", "ip6tables") for what in ("", "-save", "-restore")]
_SECONDS: Final = 300


def ensure_packages(names: Sequence[str] = NODE_PACKAGES) -> Path:
    """Return the directory below which these packages are unpacked; fetches them the first time.

    Raises:
        CellwardError: parts/packages-missing.
    """
    root = _place(names)
    if (root / "complete").exists():
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with _locked(root.with_suffix(".lock")):
        if not (root / "complete").exists():
            _fetch(names, root)
    return root


def environment(root: Path) -> Mapping[str, str]:
    """Return the variables with which programs below ``root`` find one another, their libraries and their plug-ins."""
    libraries = [str(path) for path in _libraries(root)]
    found = {
        "PATH": ":".join(
            [*(str(root / place) for place in ("links", "usr/sbin", "usr/bin", "sbin", "bin")), os.defpath]
        ),
        "LD_LIBRARY_PATH": ":".join(libraries),
    }
    plugins = next(root.glob("usr/lib/*/xtables"), None)
    return found | ({"XTABLES_LIBDIR": str(plugins)} if plugins is not None else {})


def _place(names: Sequence[str]) -> Path:
    """One directory for each release of the machine and each list of packages."""
    try:
        release = Path("/etc/os-release").read_text()
    except OSError:
        release = ""
    found = dict(re.findall(r'^(ID|VERSION_ID)="?([\w.-]+)', release, re.MULTILINE))
    digest = hashlib.sha256(" ".join(names).encode()).hexdigest()[:12]
    label = f"{found.get('ID', 'linux')}-{found.get('VERSION_ID', '0')}"
    return cache_root() / "packages" / label / digest


def _libraries(root: Path) -> Iterator[Path]:
    for below in ("usr/lib", "lib"):
        yield from sorted(path for path in root.glob(f"{below}/*-linux-gnu*") if path.is_dir())


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fetch(names: Sequence[str], root: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise PACKAGES_MISSING("there is no apt-get or no dpkg-deb on this machine")
    ticker = Ticker(f"fetching {', '.join(names)} (once; unpacked into the cache, not installed)")
    fresh = root.with_name(f"{root.name}.{os.getpid()}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    debs = fresh / "debs"
    debs.mkdir(parents=True)
    try:
        # apt checks each file against the signed lists of the distribution.
        _run(["apt-get", "download", *names, *_further(names)], debs)
        for deb in sorted(debs.glob("*.deb")):
            _run(["dpkg-deb", "-x", str(deb), str(fresh)], fresh)
            ticker.tick()
        shutil.rmtree(debs)
        _link(fresh)
        (fresh / "complete").touch()
        shutil.rmtree(root, ignore_errors=True)
        fresh.replace(root)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    ticker.done(f"unpacked into {root}")


def _further(names: Sequence[str]) -> list[str]:
    """Packages that these need and this machine does not have; what it has is used from where it is."""
    said = _run(["apt-get", "install", "--print-uris", "-qq", "--no-install-recommends", *names], Path("/"))
    packages = {line.split()[1].split("_")[0] for line in said.splitlines() if line.startswith("'")}
    return sorted(packages - set(names))


def _run(command: Sequence[str], directory: Path) -> str:
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=_SECONDS, check=False,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PACKAGES_MISSING(f"{command[0]} {command[1]}: {error}") from error
    if done.returncode:
        raise PACKAGES_MISSING(f"`{' '.join(command[:2])}` ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _link(root: Path) -> None:
    links = root / "links"
    links.mkdir()
    target = next((path for path in root.glob("*/sbin/xtables-nft-multi")), root / "sbin/xtables-nft-multi")
    for name in _IPTABLES:
        (links / name).symlink_to(os.path.relpath(target, links))
