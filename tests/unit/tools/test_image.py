"""Images: the Dockerfile and ``tools.image`` say the same, and what is pinned is what is taken."""

from __future__ import annotations

import base64
import hashlib
import json
import marshal
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.isolation.probing.pods import PROGRAM
from cellward.errors import CellwardError
from tools.image import finish, packages
from tools.image.bases import pin_bases
from tools.image.build import PROBER, configuration, version
from tools.image.finish import HOME, SIDES
from tools.image.lock import lock_of, pins
from tools.image.sbom import sbom
from tools.image.signature import load_key, payload, sign
from tools.parts.model import PARTS, ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def _stage(name: str) -> list[str]:
    """Instructions of one stage, each on one line."""
    text = DOCKERFILE.replace("\\\n", " ")
    found = re.search(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return [re.sub(r"\s+", " ", line) for line in found[1].splitlines() if line]


def _pairs(lines: list[str], word: str) -> dict[str, str]:
    text = " ".join(line.removeprefix(word) for line in lines if line.startswith(word))
    return {key: value.strip('"') for key, value in re.findall(r'([\w./]+)=("[^"]*"|\S+)', text)}


@pytest.mark.parametrize("name", SIDES)
def test_dockerfile_configures_what_the_tool_does(name: str) -> None:
    """User, directory, environment, entry point and labels of both ways are the same."""
    lines = _stage(name)
    argument = _pairs(lines, "ARG ")["VERSION"]
    labels = {key: value.replace("${VERSION}", argument) for key, value in _pairs(lines, "LABEL ").items()}
    said = {
        "User": next(line.removeprefix("USER ") for line in lines if line.startswith("USER ")),
        "WorkingDir": next(line.removeprefix("WORKDIR ") for line in lines if line.startswith("WORKDIR ")),
        "Env": [f"{key}={value}" for key, value in _pairs(lines, "ENV ").items()],
        "Entrypoint": json.loads(
            next(line.removeprefix("ENTRYPOINT ") for line in lines if line.startswith("ENTRYPOINT "))
        ),
        "Labels": labels,
    }
    assert said == configuration(SIDES[name], version())
    assert said["User"] == "65532:65532"


def test_the_prober_is_alone_in_its_image() -> None:
    """One static program on nothing, as nobody in particular, where the agent's pods look for it in either image."""
    stage = _stage("prober")
    assert f"{HOME}/bin/prober" == PROGRAM
    assert "FROM scratch AS prober" in DOCKERFILE
    assert [line for line in stage if line.startswith("COPY ")] == [f"COPY --from=prober-tree /prober {PROGRAM}"]
    assert {"USER 65532:65532", "WORKDIR /", f'ENTRYPOINT ["{PROGRAM}"]'} <= set(stage)
    assert _pairs(stage, "LABEL ")["org.opencontainers.image.title"] == PROBER.program


@pytest.mark.parametrize("name", SIDES)
def test_dockerfile_puts_the_same_below_home(name: str) -> None:
    """The lock, our packages, the same last step, and the engine where the tool puts it."""
    side, lines = SIDES[name], _stage(f"{name}-tree")
    copied = {line for line in lines if line.startswith("COPY ")}
    wanted = {f"COPY {package} {HOME}/lib/{package}" for package in side.packages}
    if side.opa:
        wanted.add(f"COPY --from=opa /opa {HOME}/bin/opa")
    if side.prober:
        wanted.add(f"COPY --from=prober-tree /prober {HOME}/bin/prober")
    assert copied == wanted
    runs = [line for line in lines if line.startswith("RUN ")]
    assert len(runs) == 2
    assert runs[0].endswith(f"--target {HOME}/lib --requirement /src/requirements/{name}.txt")
    assert {"--require-hashes", "--no-deps", "--no-compile"} < set(runs[0].split())
    assert runs[1] == f"RUN PYTHONHASHSEED=0 python3 /src/finish.py {name} {HOME}"
    assert f"COPY --from={name}-tree {HOME} {HOME}" in _stage(name)


def test_dockerfile_has_the_pinned_engine_and_an_allowed_context() -> None:
    """The engine is of one version both ways, and an engine is sent exactly what the file copies."""
    assert f"ARG OPA=docker.io/openpolicyagent/opa:{PARTS['opa'].version}-static" in DOCKERFILE
    copied = {line.split()[1] for line in re.findall(r"^COPY [^-].*$", DOCKERFILE, re.MULTILINE)}
    allowed = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert copied == allowed
    assert all((ROOT / path).exists() for path in copied)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a home with a small hub, beside a wheel and a module that nothing imports."""
    library = tmp_path / "home" / "lib"
    files = {
        "hub/__init__.py": "",
        "hub/__main__.py": "def main() -> int:\n    return 7\n",
        "hub/app.py": "import wheel\n\ndef f(x):\n    return x in {'p', 'q', 'r', 's'}\n",
        "hub/keeping.py": "",
        "hub/unused.py": "",
        "wheel.py": "",
        "wheel.pyi": "",
        "wheel-1.0.dist-info/METADATA": "Name: wheel\n",
        "wheel-1.0.dist-info/INSTALLER": "somebody\n",
        "wheel-1.0.dist-info/RECORD": "in some order\n",
        "bin/wheel": "#!/tmp/python\n",
    }
    for name, text in files.items():
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text(text)
    return tmp_path / "home"


def _finish(tree: Path, seed: str = "0") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", finish.__file__, "hub", str(tree)]
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_what_is_imported_is_compiled_and_nothing_else(tree: Path) -> None:
    """Bytecode names the place in the image; what installers and compilers leave is gone; the program is there."""
    assert _finish(tree).returncode == 0
    left = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    tag = f"{sys.implementation.cache_tag}.pyc"
    compiled = {f"lib/hub/__pycache__/{name}.{tag}" for name in ("__init__", "__main__", "app", "keeping")}
    sources = {f"lib/hub/{name}.py" for name in ("__init__", "__main__", "app", "keeping", "unused")}
    others = {f"lib/__pycache__/wheel.{tag}", "lib/wheel.py", "lib/wheel-1.0.dist-info/METADATA", "bin/cellward-hub"}
    assert left == compiled | sources | others
    bytecode = (tree / f"lib/hub/__pycache__/app.{tag}").read_bytes()
    # By a hash that nothing compares (PEP 552): no time of a file is in it.
    assert bytecode[4:8] == b"\x01\0\0\0"
    code = marshal.loads(bytecode[16:])  # noqa: S302 - made just now
    assert code.co_filename == f"{HOME}/lib/hub/app.py"
    program = tree / "bin/cellward-hub"
    assert os.access(program, os.X_OK)
    text = program.read_text().replace(str(HOME), str(tree))
    assert text.startswith("#!/usr/bin/python3.11 -I")
    assert subprocess.run([sys.executable, "-I", "-c", text], check=False).returncode == 7


def test_a_tree_is_not_finished_in_the_order_of_this_process(tree: Path) -> None:
    """Sets go into bytecode in the order of hashes that differ from process to process."""
    done = _finish(tree, "1")
    assert done.returncode == 2
    assert "PYTHONHASHSEED=0" in done.stderr


def test_apt_is_read_with_epochs_and_hashes() -> None:
    """A version's colon is written as %3a in a file's name."""
    digest = hashlib.sha256(b"x").hexdigest()
    line = f"'http://mirror.test/z/zlib1g_1.2_amd64.deb' zlib1g_1%3a1.2_amd64.deb 8 SHA256:{digest}\n"
    assert packages.read_uris(f"W: some warning\n{line}") == [
        packages.Package("zlib1g", "1:1.2", "zlib1g_1%3a1.2_amd64.deb", digest)
    ]


def test_every_named_package_is_pinned() -> None:
    """The list is of the names in the code, and each has a whole hash."""
    found = packages.pinned()
    assert [one.name for one in found] == sorted(packages.NAMES)
    assert all(re.fullmatch(r"[0-9a-f]{64}", one.sha256) for one in found)


def test_another_file_under_a_pinned_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that lies in the cache already."""
    monkeypatch.setenv("CELLWARD_CACHE", str(tmp_path))
    one = packages.Package("x", "1", "x_1_all.deb", hashlib.sha256(b"right").hexdigest())
    file = tmp_path / "images" / "debian" / f"{one.sha256}.deb"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"right")
    assert packages.fetch([one]) == [file]
    file.write_bytes(b"wrong")
    with pytest.raises(CellwardError) as caught:
        packages.fetch([one])
    assert caught.value.code == "image/package-differs"


def test_inventory_names_what_was_installed() -> None:
    """Every wheel at its pinned version, packages with their hashes, and the engine of the agent alone."""
    lock = pins(lock_of("agent").read_text())
    assert len(lock) > 30
    assert all(one.hashes for one in lock)
    installed = [f"{one.name.replace('-', '_')}-{one.version}" for one in lock[:5]]
    documents = {
        name: json.loads(sbom(SIDES[name], "1.0", packages.pinned(), installed if name == "agent" else []))
        for name in SIDES
    }
    urls = {name: [one["purl"] for one in document["components"]] for name, document in documents.items()}
    assert urls["agent"][len(packages.NAMES) : -1] == [f"pkg:pypi/{one.name}@{one.version}" for one in lock[:5]]
    assert urls["agent"][-1] == f"pkg:golang/github.com/open-policy-agent/opa@v{PARTS['opa'].version}"
    assert urls["hub"] == urls["agent"][: len(packages.NAMES)]
    assert all(url.startswith("pkg:deb/debian/") for url in urls["hub"])


def test_signature_is_of_the_digest_by_the_key(tmp_path: Path) -> None:
    """Simple signing: who has the public key verifies the payload, which names repository and digest."""
    key = ec.generate_private_key(ec.SECP256R1())
    digest = f"sha256:{'a' * 64}"
    data = payload("registry.test/agent", digest)
    assert json.loads(data)["critical"] == {
        "identity": {"docker-reference": "registry.test/agent"},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    file = tmp_path / "key.pem"
    no_password = serialization.NoEncryption()
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    file.write_bytes(key.private_bytes(*pem, no_password))
    signature = base64.b64decode(sign(data, load_key(file)))
    key.public_key().verify(signature, data, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        key.public_key().verify(signature, data + b" ", ec.ECDSA(hashes.SHA256()))
    file.write_bytes(ec.generate_private_key(ec.SECP384R1()).private_bytes(*pem, no_password))
    with pytest.raises(CellwardError) as caught:
        load_key(file)
    assert caught.value.code == "image/bad-key"


class _Registry(BaseHTTPRequestHandler):
    """Serves one manifest for ``library/base:1`` to who has the token that it gives."""

    manifest = b'{"schemaVersion": 2}'

    def do_GET(self) -> None:
        if self.path.startswith("/token?"):
            granted = self.path == "/token?service=r&scope=repository%3Alibrary/base%3Apull"
            self._answer(200 if granted else 403, b'{"token": "t"}')
        elif self.path != "/v2/library/base/manifests/1":
            self._answer(404, b"")
        elif self.headers.get("Authorization") != "Bearer t":
            realm = f"http://127.0.0.1:{self.server.server_port}/token"  # type: ignore[attr-defined]
            self._answer(401, b"", f'Bearer realm="{realm}",service="r",scope="repository:library/base:pull"')
        else:
            self._answer(200, self.manifest)

    def _answer(self, status: int, body: bytes, challenge: str = "") -> None:
        self.send_response(status)
        if challenge:
            self.send_header("WWW-Authenticate", challenge)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the interface's name
        pass


@pytest.fixture
def registry() -> Iterator[str]:
    """Yield the address of a registry on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Registry) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_digests_are_written_behind_the_tags(tmp_path: Path, registry: str) -> None:
    """The digest is of what the registry serves, after the token it asks for; a second time it is written over."""
    file = tmp_path / "Dockerfile"
    file.write_text(f"ARG RUN={registry}/library/base:1@sha256:{'0' * 64}\nFROM ${{RUN}}\n")
    reference = f"{registry}/library/base:1@sha256:{hashlib.sha256(_Registry.manifest).hexdigest()}"
    for _ in range(2):
        assert pin_bases(file) == [reference]
        assert file.read_text() == f"ARG RUN={reference}\nFROM ${{RUN}}\n"


def test_no_digest_is_written_that_nobody_resolved(tmp_path: Path, registry: str) -> None:
    """One base that cannot be resolved leaves the file as it was."""
    text = f"ARG RUN={registry}/library/base:1\nARG BUILD={registry}/library/other:1\nFROM ${{RUN}}\n"
    (tmp_path / "Dockerfile").write_text(text)
    with pytest.raises(CellwardError) as caught:
        pin_bases(tmp_path / "Dockerfile")
    assert caught.value.code == "image/no-registry"
    assert "library/other:1" in caught.value.message
    assert (tmp_path / "Dockerfile").read_text() == text
