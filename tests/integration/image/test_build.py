"""The agent's image as it is made here: the same twice, small, without a shell, and quick to start."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import resource
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools.image import oci
from tools.image.build import assemble, base, configuration, python, version
from tools.image.finish import HOME, SIDES

AGENT = SIDES["agent"]


def _possible() -> bool:
    try:
        release = set(Path("/etc/os-release").read_text().splitlines())
    except OSError:
        return False
    return platform.machine() == "x86_64" and {"ID=debian", 'VERSION_ID="12"'} <= release


pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("image"),
    pytest.mark.skipif(not _possible(), reason="the packages of an image are those of Debian 12 on amd64"),
]


@dataclass(frozen=True, slots=True)
class _Made:
    root: Path
    tree: Path
    layers: list[bytes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> _Made:
    """Make all of the agent's image but the archive."""
    tree = tmp_path_factory.mktemp("agent")
    root = base()
    assemble(AGENT, root, tree)
    return _Made(root, tree, [oci.layer_of(root), oci.layer_of(tree)])


def test_two_builds_are_one_image(made: _Made, tmp_path: Path) -> None:
    """Another directory, another time, another process: the same bytes of the layer."""
    assemble(AGENT, base(), tmp_path)
    assert oci.digest_of(oci.layer_of(tmp_path)) == oci.digest_of(made.layers[1])


def test_archive_is_small_and_whole(made: _Made) -> None:
    """At most 60 MB; every blob has its name's hash, and the manifest leads to all of them."""
    image = oci.image(["cellward.test/agent:1"], made.layers, configuration(AGENT, version()))
    assert len(image.archive) <= 60_000_000
    with tarfile.open(fileobj=io.BytesIO(image.archive)) as tar:
        blobs = {one.name.rpartition("/")[2]: tar.extractfile(one) for one in tar if one.name.startswith("blobs/")}
        data = {name: file.read() for name, file in blobs.items() if file is not None}
    assert all(hashlib.sha256(blob).hexdigest() == name for name, blob in data.items())
    manifest = json.loads(data[image.digest.removeprefix("sha256:")])
    named = {one["digest"].removeprefix("sha256:") for one in [manifest["config"], *manifest["layers"]]}
    assert named | {image.digest.removeprefix("sha256:")} == set(data)
    config = json.loads(data[manifest["config"]["digest"].removeprefix("sha256:")])["config"]
    assert config["User"] == "65532:65532"


def test_programs_are_python_the_agent_and_its_engine(made: _Made) -> None:
    """No shell, no package manager; what can be run is in two directories, and both are on PATH."""
    names: set[str] = set()
    for layer in made.layers:
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            names |= {one.name for one in tar if not one.isdir()}
    programs = {name for name in names if re.match(r"(.*/)?s?bin/[^/]+$", name)}
    home = str(HOME.relative_to("/"))
    ours = {f"{home}/bin/{name}" for name in ("cellward-agent", "opa", "prober")}
    assert programs == {"usr/bin/python3.11", *ours}
    path = next(one for one in configuration(AGENT, version())["Env"] if one.startswith("PATH="))
    assert path == f"PATH={HOME}/bin:/usr/bin"
    assert "etc/ssl/certs/ca-certificates.crt" in names


def _start(made: _Made, code: str) -> tuple[str, float]:
    """Run code in the image's own Python; return what it printed and its CPU seconds."""
    library = made.tree / HOME.relative_to("/") / "lib"
    command, environment = python(made.root)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, "-c", f"import sys; sys.path.insert(0, {str(library)!r})\n{code}"],
        env=dict(environment), capture_output=True, text=True, check=False,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_start_imports_what_was_compiled(made: _Made) -> None:
    """With the Kubernetes client, from the trimmed tree alone, every module from bytecode; at most 1.5 s of CPU."""
    code = (
        "import agent.__main__, agent.app\n"
        "from agent.kube.library import load_library\n"
        "load_library()\n"
        "from pathlib import Path\n"
        "ours = [m for m in list(sys.modules.values()) if '/lib/' in (getattr(m, '__file__', None) or '')]\n"
        "inside = [m for m in ours if m.__file__.startswith(sys.path[0]) and m.__file__.endswith('.py')]\n"
        "print(len(inside), [m.__name__ for m in inside if not m.__cached__ or not Path(m.__cached__).is_file()])\n"
    )
    (said, first), (_, second) = _start(made, code), _start(made, code)
    count, _, missing = said.strip().partition(" ")
    assert missing == "[]"
    assert int(count) > 400
    assert min(first, second) <= 1.5


def test_bytecode_is_of_nothing_else(made: _Made) -> None:
    """Of the wheels' modules most are never imported; those have none."""
    library = made.tree / HOME.relative_to("/") / "lib"
    sources, compiled = len(list(library.rglob("*.py"))), len(list(library.rglob("*.pyc")))
    assert 400 < compiled < sources * 0.75


def test_its_engine_runs(made: _Made) -> None:
    """The one that was pinned, without symbols."""
    program = made.tree / HOME.relative_to("/") / "bin" / "opa"
    assert os.access(program, os.X_OK)
    said = subprocess.run([str(program), "version"], capture_output=True, text=True, check=True).stdout
    assert re.search(r"^Version: 1\.\d+\.\d+$", said, re.MULTILINE)
