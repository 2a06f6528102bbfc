"""The tree of the previous version, taken from our own history; for tests of hub and agent of different versions."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tests.fakes.missing import skip
from tools.parts.locate import cache_root
from tools.parts.model import ROOT

PREVIOUS = ROOT / "e2e" / "07-skew" / "previous.json"


def previous_tree() -> Path:
    """Return the previous version's tree, unpacked into the cache once for its commit.

    Skips, with the reason, where the history does not reach back that far; with ``CI=true`` that is a failure.
    """
    commit: str = json.loads(PREVIOUS.read_text())["commit"]
    place = cache_root() / "trees" / commit
    if place.is_dir():
        return place
    if _git("cat-file", "-e", f"{commit}^{{commit}}").returncode:
        shallow = _git("rev-parse", "--is-shallow-repository").stdout.strip() == b"true"
        why = "the history is shallow (git fetch --unshallow)" if shallow else "this is no clone of our history"
        skip(f"the previous version, {commit[:12]}, is not here: {why}")
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f"{commit}.", dir=place.parent))
    try:
        with tarfile.open(fileobj=io.BytesIO(_git("archive", "--format=tar", commit).stdout)) as archive:
            archive.extractall(fresh, filter="data")
        fresh.chmod(0o755)
        # Another process may have been first; what is there is whole either way.
        if not place.is_dir():
            fresh.rename(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return place


def _git(*words: str) -> subprocess.CompletedProcess[bytes]:
    git = shutil.which("git")
    if git is None:
        return subprocess.CompletedProcess(words, 1, b"", b"")
    return subprocess.run([git, "-C", str(ROOT), *words], capture_output=True, check=False)
