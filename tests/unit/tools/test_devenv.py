"""``make setup``: whatever interrupted the last run, and whoever else runs, the next ends with a whole ``.venv``."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.parts.model import ROOT

_MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
_PYPROJECT = '[project]\nname = "tree"\n[project.scripts]\nhello = "hello:main"\n'
#: A shell that runs the tests in the background has its children ignore what a terminal sends.
_HEEDING_CTRL_C = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a tree with the tool and nothing to install; the space in its path is a newcomer's."""
    root = tmp_path / "a tree"
    (root / "tools").mkdir(parents=True)
    (root / "requirements").mkdir()
    shutil.copy(ROOT / "tools" / "devenv.py", root / "tools")
    (root / "requirements" / "dev.txt").write_text("# nothing\n")
    (root / "pyproject.toml").write_text(_PYPROJECT)
    (root / "hello.py").write_text("def main() -> None:\n    print('hello')\n")
    return root


def _start(tree: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _HEEDING_CTRL_C, str(tree / "tools" / "devenv.py")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=55)
    return process.returncode, said


def _whole(tree: Path) -> None:
    """Fail unless ``.venv`` is of this Python, can be filled, and runs this tree's commands."""
    python = tree / ".venv" / "bin" / "python"
    asked = [python, "-c", "import pip, sys; print('%d.%d' % sys.version_info[:2])"]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() == _MINOR
    said = subprocess.run([tree / ".venv" / "bin" / "hello"], capture_output=True, text=True, check=True).stdout
    assert said == "hello\n"


def test_interrupted_between_python_and_pip_and_two_at_once_after_it(tree: Path) -> None:
    """Ctrl-C after `bin/python` is there and before pip is: told in a line.

    Of the next two runs one makes it anew; the other waits and finds it done.
    """
    first = _start(tree)
    deadline = time.monotonic() + 30
    while not (tree / ".venv" / "bin" / "python").exists():
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGINT)
    code, said = _end(first)
    assert code == 130, said
    assert "interrupted" in said
    assert "devenv.py" not in said, "a traceback of ours"
    outcomes = [_end(process) for process in [_start(tree), _start(tree)]]
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    assert "".join(said for _, said in outcomes).count("making .venv") == 1
    _whole(tree)


def test_without_pip_although_it_could_be_had(tree: Path) -> None:
    """A `.venv` that an older version left without pip is made anew; one that is up to date is not touched."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tree / ".venv"], check=True)
    code, said = _end(_start(tree))
    assert code == 0, said
    _whole(tree)
    assert _end(_start(tree)) == (0, "")


def test_one_of_another_python_is_made_anew(tree: Path) -> None:
    """Of another minor version it is as little of use as one without pip; one of this is."""
    usable = runpy.run_path(str(tree / "tools" / "devenv.py"))["_usable"]
    python = tree / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    for version, expected in (("3.8", False), (_MINOR, True)):
        python.write_text(f"#!/bin/sh\necho {version}\n")
        python.chmod(0o755)
        assert usable(python, with_pip=True) is expected


def test_setup_is_part_of_the_time_the_demo_tells(tmp_path: Path) -> None:
    """A slow `make setup` counts: the beginning is taken when `make` begins, not when the demo does."""
    slow, late = tmp_path / "slow", tmp_path / "late"
    slow.write_text("#!/bin/sh\nsleep 1\n")
    late.write_text('#!/bin/sh\necho "$CELLWARD_STARTED" "$(date +%s.%N)"\n')
    for program in (slow, late):
        program.chmod(0o755)
    environment = {**os.environ, "CELLWARD_STARTED": "1"}
    said = subprocess.run(
        ["make", "demo", f"PYTHON={slow}", f"PY={late}"],  # noqa: S607 - the make that people type
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=50,
    ).stdout  # fmt: skip
    started, now = (float(word) for word in said.split())
    assert 1 <= now - started < 50
