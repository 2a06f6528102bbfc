"""The tool fetcher: pinned, found only when it is the right one, built once, and plain about what is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cellward.errors import CellwardError
from tools.parts import own
from tools.parts.build import ensure
from tools.parts.locate import cached_binary, locate, path_of
from tools.parts.model import GO_MODULES, PARTS, ROOT, Part
from tools.stack.node import images

OPA = PARTS["opa"]


def _program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bin_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only directory on PATH besides the system's own tools; the cache is empty."""
    monkeypatch.setenv("CELLWARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def _fake_go(bin_dir: Path, *, version: str = "go1.26.1", reports: str = OPA.version) -> Path:
    """Return the log of a Go that, slowly, "builds" a program reporting ``reports``."""
    log = bin_dir.parent / "builds"
    _program(
        bin_dir / "go",
        f"""
if [ "$1" = env ]; then echo {version}; exit 0; fi
echo build >> {log}
while [ "$1" != -o ]; do shift; done
sleep 1
printf '#!/bin/sh\\necho Version: {reports}\\n' > "$2"
chmod 755 "$2"
""",
    )
    return log


@pytest.mark.parametrize("part", PARTS.values(), ids=lambda part: str(part.name))
def test_pinned_version_is_the_one_of_the_go_module(part: Part) -> None:
    """Two places name the version; they must not drift apart."""
    text = (GO_MODULES / part.module / "go.mod").read_text()
    found = re.search(rf"^\s*(?:require )?{re.escape(part.requirement)} v(\S+)", text, re.MULTILINE)
    assert found is not None
    assert found[1] == part.version


def test_path_is_used_at_the_pinned_minor(bin_dir: Path) -> None:
    """Another patch release of the same minor is as good as the pinned one."""
    major, minor = OPA.minor
    mine = _program(bin_dir / "opa", f"echo Version: {major}.{minor}.99")
    assert locate(OPA) == mine


@pytest.mark.parametrize("said", ["echo Version: 1.21.9", "echo Version: 2.22.2", "echo hello", "exit 1"])
def test_path_is_not_used_at_another_minor(bin_dir: Path, said: str) -> None:
    """Another minor, or a program that does not say what it is, is not the part."""
    _program(bin_dir / "opa", said)
    assert locate(OPA) is None


def test_cache_is_believed_only_when_it_reports_its_version(bin_dir: Path) -> None:
    """A file in the right place is not yet the part."""
    _program(cached_binary(OPA), "echo Version: 1.22.1")
    assert locate(OPA) is None


def test_not_there_says_how_to_get_it(bin_dir: Path) -> None:
    """Asking for the path never builds, and tells what would."""
    with pytest.raises(CellwardError) as caught:
        path_of("opa")
    assert caught.value.code == "parts/not-there"
    assert "python -m tools.parts ensure opa" in caught.value.hint


def test_unknown_part_is_refused() -> None:
    """A misspelt name is told from the list of known ones."""
    with pytest.raises(CellwardError) as caught:
        path_of("oppa")
    assert caught.value.code == "parts/unknown-part"
    assert "opa" in caught.value.message


def test_missing_go_is_named(bin_dir: Path) -> None:
    """Without Go the message names the part, the version and Go."""
    with pytest.raises(CellwardError) as caught:
        ensure(["opa"])
    assert caught.value.code == "parts/go-missing"
    assert OPA.version in caught.value.message


def test_old_go_is_named(bin_dir: Path) -> None:
    """An old Go is refused before it fails in the middle of a build."""
    _fake_go(bin_dir, version="go1.19.4")
    with pytest.raises(CellwardError) as caught:
        ensure(["opa"])
    assert caught.value.code == "parts/go-too-old"
    assert "go1.19.4" in caught.value.message


def test_go_from_source_is_new_enough(bin_dir: Path) -> None:
    """A Go built from source puts "devel" before its version."""
    _fake_go(bin_dir, version="devel go1.27-0123abc Mon Jan 5 10:00:00 2026 +0000")
    assert ensure(["opa"]) == {"opa": cached_binary(OPA)}


def test_cache_that_cannot_be_written_is_named(bin_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback of a file system: a code, the directory, and the variable that leads elsewhere."""
    _fake_go(bin_dir)
    (bin_dir.parent / "file").write_text("not a directory")
    monkeypatch.setenv("CELLWARD_CACHE", str(bin_dir.parent / "file" / "cache"))
    with pytest.raises(CellwardError) as caught:
        ensure(["opa"])
    assert caught.value.code == "parts/cache-unwritable"
    assert str(cached_binary(OPA).parent) in caught.value.message
    assert "CELLWARD_CACHE" in caught.value.hint


def test_lock_that_cannot_be_written_is_named(bin_dir: Path) -> None:
    """The same for the first file in the cache."""
    _fake_go(bin_dir)
    (cached_binary(OPA).parent / ".lock").mkdir(parents=True)
    with pytest.raises(CellwardError) as caught:
        ensure(["opa"])
    assert caught.value.code == "parts/cache-unwritable"


@pytest.mark.parametrize("cache", ["GOCACHE", "GOMODCACHE"])
def test_small_disk_of_a_go_cache_is_named(bin_dir: Path, cache: str) -> None:
    """Go's own caches may lie on another disk than ours; /proc has no room at all."""
    log = _fake_go(bin_dir)
    real = (bin_dir / "go").read_text()
    small = f'if [ "$1 $2" = "env {cache}" ]; then echo /proc/not-yet-there; exit 0; fi\n'
    _program(bin_dir / "go", small + real.removeprefix("#!/bin/sh\n"))
    with pytest.raises(CellwardError) as caught:
        ensure(["opa"])
    assert caught.value.code == "parts/disk-too-small"
    assert f"({cache})" in caught.value.message
    assert not log.exists()


def test_leftover_of_a_killed_build_is_swept(bin_dir: Path) -> None:
    """SIGKILL leaves a half-written binary behind; the next build takes it away."""
    _fake_go(bin_dir)
    left = cached_binary(OPA).with_name("opa.4711.new")
    left.parent.mkdir(parents=True)
    left.write_text("half")
    ensure(["opa"])
    assert not left.exists()
    assert cached_binary(OPA).exists()


def test_build_with_another_version_is_not_kept(bin_dir: Path) -> None:
    """What was built must report the pinned version, or nothing appears in the cache."""
    _fake_go(bin_dir, reports="9.9.9")
    with pytest.raises(CellwardError) as caught:
        ensure(["opa"])
    assert caught.value.code == "parts/wrong-version"
    assert not cached_binary(OPA).exists()
    assert not list(cached_binary(OPA).parent.glob("*.new"))


def test_failed_build_shows_the_end_of_its_log(bin_dir: Path) -> None:
    """The reason is in the message, not only in a file."""
    _program(bin_dir / "go", 'if [ "$1" = env ]; then echo go1.26.1; else echo "no such module" >&2; exit 1; fi')
    with pytest.raises(CellwardError) as caught:
        ensure(["opa"])
    assert caught.value.code == "parts/build-failed"
    assert "no such module" in caught.value.message


def test_two_commands_build_once(bin_dir: Path) -> None:
    """The second command waits for the first one's lock and then finds the part."""
    log = _fake_go(bin_dir)
    command = [sys.executable, "-m", "tools.parts", "ensure", "opa"]
    running = [
        subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=50) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert log.read_text().splitlines() == ["build"]
    assert all(str(cached_binary(OPA)) in out.decode() for out, _ in outputs)


@pytest.mark.real
@pytest.mark.skipif(shutil.which("go") is None, reason="there is no Go on this machine")
@pytest.mark.parametrize("source", own.modules(), ids=lambda source: source.name)
def test_our_programs_pass_their_own_tests(source: Path) -> None:
    """In Go: the stand-in calls what its environment names; the prober finds what is open, and its gate waits (V9)."""
    own.go(source, "test", "./...")


def test_a_program_of_ours_is_another_one_when_its_sources_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache never holds a program of other sources than those of the tree."""
    monkeypatch.setattr(own, "ROOT", tmp_path)
    source = tmp_path / "main.go"
    source.write_text("package main\n")
    before = own.place_of("program", [source])
    assert own.place_of("program", [source]) == before
    source.write_text("package main // changed\n")
    assert own.place_of("program", [source]) != before


def test_an_image_is_another_one_when_the_prober_in_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else real nodes would run the prober of an earlier tree."""
    before = {name: images._state_of(name) for name in ("agent", "hub")}
    # Any other file of the tree stands for a changed source.
    monkeypatch.setattr(images, "sources", lambda name: [*own.sources(name), ROOT / "README.md"])
    after = {name: images._state_of(name) for name in ("agent", "hub")}
    assert after["agent"] != before["agent"]
    assert after["hub"] == before["hub"]


def test_an_image_is_another_one_when_its_opa_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else real nodes would run the policy engine of an earlier pin."""
    before = {name: images._state_of(name) for name in ("agent", "hub")}
    # Any other file of the tree stands for the changed pins.
    monkeypatch.setattr(images.model, "__file__", str(ROOT / "README.md"))
    after = {name: images._state_of(name) for name in ("agent", "hub")}
    assert after["agent"] != before["agent"]
    assert after["hub"] == before["hub"]
