"""The one run of ``opa check``: a bundle must compile with the allowed capabilities, at publish and at activation.

The engine gets an empty environment, a private directory and a deadline; what it prints is cut before it is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cellward.errors import CellwardError
from cellward.policy import capabilities
from cellward.policy.bundle import Bundle, check_disjoint, pack
from cellward.policy.errors import DOES_NOT_COMPILE, ENGINE_NOT_STARTABLE, ENGINE_UNAVAILABLE

_DEADLINE = 30.0
_SHOWN = 1200
_SAID = 300


def _written(directory: Path, allowed: Mapping[str, object], archives: Sequence[bytes]) -> list[str]:
    """Write what is to be checked; return the arguments that name it."""
    capabilities_file = directory / "capabilities.json"
    capabilities_file.write_text(json.dumps(allowed), encoding="utf-8")
    files = [directory / f"{index}.tar.gz" for index in range(len(archives))]
    for file, archive in zip(files, archives, strict=True):
        file.write_bytes(archive)
    return ["--capabilities", str(capabilities_file), "--bundle", *map(str, files)]


class Compiler:
    """Runs the engine's own checks with one binary; knows its version and its restricted capabilities."""

    def __init__(self, opa_binary: Path) -> None:
        self._binary = opa_binary
        self._capabilities: dict[str, object] | None = None
        self._version: str | None = None

    async def version(self) -> str:
        """Return the engine's version, for Hello."""
        if self._version is None:
            code, out, err = await self._run("version")
            if code != 0:
                raise self._not_startable("version", code, err)
            first = out.splitlines()[0] if out else ""
            self._version = first.removeprefix("Version:").strip()
        return self._version

    async def capabilities(self) -> dict[str, object]:
        """Return the engine's capabilities cut down to the allow-list."""
        if self._capabilities is None:
            code, out, err = await self._run("capabilities", "--current")
            if code != 0:
                raise self._not_startable("capabilities", code, err)
            try:
                current = json.loads(out)
            except ValueError:
                current = None
            self._capabilities = capabilities.restrict(current if isinstance(current, dict) else {})
        return self._capabilities

    async def check(self, bundles: Sequence[Bundle], *, strict: bool = False, gate: str = "") -> None:
        """Compile bundles together, and with ``gate``, the module that will ask them.

        Raises policy/does-not-compile, policy/roots-overlap, policy/engine-not-startable without an engine, or
        policy/engine-unavailable when it is killed, too slow, or has no room to work in.
        """
        check_disjoint(bundles)
        allowed = await self.capabilities()
        if not bundles:
            return
        archives = [bundle.repacked() for bundle in bundles]
        if gate:
            manifest = json.dumps({"roots": ["cellward_gate"], "rego_version": 1}).encode()
            archives.append(pack({".manifest": manifest, "gate.rego": gate.encode()}))
        try:
            with tempfile.TemporaryDirectory(prefix="cellward-check-", ignore_cleanup_errors=True) as name:
                arguments = _written(Path(name), allowed, archives)
                code, out, err = await self._run("check", *(["--strict"] if strict else []), *arguments)
        except OSError as error:
            raise ENGINE_UNAVAILABLE(f"the policy cannot be compiled: {error.strerror}") from error
        if code < 0:
            raise ENGINE_UNAVAILABLE(f"the policy cannot be compiled: signal {-code} ended the engine")
        if code != 0:
            text = (err or out).replace(name, "").strip()[:_SHOWN]
            names = ", ".join(f"{bundle.name} {bundle.version}" for bundle in bundles)
            raise DOES_NOT_COMPILE(f"{names}: {text}")

    def _not_startable(self, asked: str, code: int, err: str) -> CellwardError:
        how = f"exit code {code}" if code > 0 else f"signal {-code}"
        said = " ".join(err.split())[:_SAID]
        return ENGINE_NOT_STARTABLE(f"{self._binary} {asked} ended with {how}{': ' if said else ''}{said}")

    async def _run(self, *arguments: str) -> tuple[int, str, str]:
        try:
            process = await asyncio.create_subprocess_exec(
                str(self._binary),
                *arguments,
                env={},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise ENGINE_NOT_STARTABLE(f"{self._binary} cannot be started: {error.strerror}") from error
        try:
            out, err = await asyncio.wait_for(process.communicate(), _DEADLINE)
        except TimeoutError as error:
            raise ENGINE_UNAVAILABLE(f"opa {arguments[0]} took longer than {_DEADLINE:.0f} s") from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return process.returncode or 0, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")
