"""``pip install cellward[cli]``: the wheel and the locked dependencies of the command line, in an empty environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.missing import skip

ROOT = Path(__file__).parents[3]
LOCK = ROOT / "requirements" / "cli.txt"
UV = Path(sys.executable).parent / "uv"
#: What hub and agent alone need.
FOREIGN = (
    "aiohttp", "aiosqlite", "alembic", "asyncpg", "google.protobuf", "grpc", "kubernetes", "opa_client",
    "prometheus_client", "pydantic_settings", "sqlalchemy", "structlog",
)  # fmt: skip
#: Imports whatever any function of the command line and of the offline verifier imports; prints what is not there.
IMPORTS = """
import ast, importlib, importlib.util, json, pathlib, sys
import auditverify, cli
assert "site-packages" in cli.__file__, cli.__file__
wanted = set()
for package in (cli, auditverify):
    top = pathlib.Path(package.__file__).parent
    for file in top.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module != "__future__":
                wanted.add(node.module)
            elif isinstance(node, ast.Import):
                wanted.update(alias.name for alias in node.names)
missing = {}
for name in sorted(wanted):
    try:
        importlib.import_module(name)
    except ImportError as error:
        missing[name] = str(error)
def there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False
found = [name for name in sys.argv[1:] if there(name)]
print(json.dumps({"imported": len(wanted), "missing": missing, "there": found}))
"""


@dataclass(frozen=True)
class Installed:
    """An environment with the command line in it and nothing else."""

    bin: Path
    place: Path

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a program of it, outside the tree and without the tree on the path."""
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.place), "NO_COLOR": "1"}
        done = subprocess.run(
            [self.bin / words[0], *words[1:]], capture_output=True, text=True, check=False, cwd=self.place, env=environ
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        return done


def _uv(*words: str | Path) -> None:
    """Run uv; without an index there is nothing to install from, which CI does not take as a reason."""
    done = subprocess.run([UV, "--quiet", *words], capture_output=True, text=True, check=False)
    unreachable = re.search(r"error sending request|dns error|[Nn]etwork|failed to fetch", done.stderr, re.IGNORECASE)
    if done.returncode and unreachable:
        skip(f"no package index can be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel built from this tree, installed with its extra ``cli`` at the locked versions."""
    place = tmp_path_factory.mktemp("cli")
    _uv("build", "--wheel", "--out-dir", place / "dist", ROOT)
    (wheel,) = (place / "dist").glob("*.whl")
    _uv("venv", "--python", sys.executable, place / "venv")
    python = place / "venv" / "bin" / "python"
    _uv("pip", "install", "--python", python, "--constraint", LOCK, f"cellward[cli] @ {wheel.as_uri()}")
    return Installed(place / "venv" / "bin", place)


def test_only_the_locked_dependencies_are_installed(installed: Installed) -> None:
    """Nothing comes that the lock file does not name; neither side's dependencies come with it."""
    done = subprocess.run(
        [UV, "pip", "list", "--python", installed.bin / "python", "--format", "json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = {item["name"]: item["version"] for item in json.loads(done.stdout)}
    found.pop("cellward")
    locked = dict(re.findall(r"^([a-z0-9.-]+)==([^ \\;]+)", LOCK.read_text(), re.MULTILINE))
    assert found.items() <= locked.items()
    assert found.keys() >= {"typer", "rich", "tuf", "cryptography"}


def test_whatever_the_command_line_imports_is_there(installed: Installed) -> None:
    """Also the modules that only one command imports, and none of the hub's or the agent's."""
    found = json.loads(installed.run("python", "-c", IMPORTS, *FOREIGN).stdout)
    assert found["missing"] == {}
    assert found["there"] == []
    assert found["imported"] > 100


def test_it_works(installed: Installed, tmp_path: Path) -> None:
    """It tells its version, makes keys, and says that no hub answers."""
    assert installed.run("cellward", "version").stdout == installed.run("python", "-m", "cli", "version").stdout
    assert "apply" in installed.run("cellward", "--help").stdout
    home = ("--home", str(tmp_path / "home"))
    made = installed.run("cellward", "keys", "create", "author", "--no-passphrase", *home, "-o", "json")
    assert json.loads(made.stdout)["keyid"]
    assert "cellward login" in installed.run("cellward", "status", *home, code=2).stderr
    (tmp_path / "ca.pem").write_text("no CA")
    (tmp_path / "token").write_text("cwt_0123456789abcdef")
    given = ("--ca-file", str(tmp_path / "ca.pem"), "--token-file", str(tmp_path / "token"))
    refused = installed.run("cellward", "login", "--server", "https://127.0.0.1:1", *given, *home, code=2)
    assert "[cli/bad-file]" in refused.stderr
