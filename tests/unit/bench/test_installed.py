"""The hub that is measured sees what an installed hub sees, and nothing of the tests' environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.installed import others

_ROOT = Path(__file__).resolve().parents[3]


def test_what_only_others_need_is_hidden_and_what_a_hub_needs_is_not(tmp_path: Path) -> None:
    """Structlog takes rich where it is there."""
    hidden = others(_ROOT / "requirements" / "hub.txt")
    assert {"rich", "pytest"} <= hidden
    assert not {"structlog", "sqlalchemy", "grpc", "hub", "cellward"} & hidden
    (tmp_path / "asks.py").write_text("import sys, structlog, hub.app\nprint('rich' in sys.modules, sys.argv[1:])\n")
    command = [sys.executable, "-m", "bench.installed", ",".join(sorted(hidden)), "asks", "run"]
    environment = {"PYTHONPATH": f"{_ROOT}:{tmp_path}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.stdout == "False ['run']\n", done.stderr
