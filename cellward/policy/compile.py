"""The one run of ``opa check``: a bundle must compile with the allowed capabilities, at publish and at activation.

The engine gets an empty environment, a private directory and a deadline; what it prints is cut before it is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cellward.policy import capabilities
from cellward.policy.bundle import Bundle, check_disjoint
from cellward.policy.errors import DOES_NOT_COMPILE, ENGINE_UNAVAILABLE

_DEADLINE = 30.0
_SHOWN = 1200


class Compiler:
    """Runs the engine's own checks with one binary; knows its version and its restricted capabilities."""

    def __init__(self, opa_binary: Path) -> None:
        self._binary = opa_binary
        self._capabilities: dict[str, object] | None = None
        self._version: str | None = None

    async def version(self) -> str:
        """Return the engine's version, for Hello."""
        if self._version is None:
            _, out, _ = await self._run("version")
            first = out.splitlines()[0] if out else ""
            self._version = first.removeprefix("Version:").strip()
        return self._version

    async def capabilities(self) -> dict[str, object]:
        """Return the engine's capabilities cut down to the allow-list."""
        if self._capabilities is None:
            code, out, _ = await self._run("capabilities", "--current")
            try:
                current = json.loads(out) if code == 0 else None
            except ValueError:
                current = None
            self._capabilities = capabilities.restrict(current if isinstance(current, dict) else {})
        return self._capabilities

    async def check(self, bundles: Sequence[Bundle], *, strict: bool = False) -> None:
        """Compile bundles together.

        Raises policy/does-not-compile, policy/roots-overlap, or policy/engine-unavailable when there is no engine.
        """
        check_disjoint(bundles)
        allowed = await self.capabilities()
        with tempfile.TemporaryDirectory(prefix="cellward-check-") as name:
            directory = Path(name)
            (directory / "capabilities.json").write_text(json.dumps(allowed), encoding="utf-8")
            files = []
            for index, bundle in enumerate(bundles):
                file = directory / f"{index}.tar.gz"
                file.write_bytes(bundle.repacked())
                files.append(str(file))
            if not files:
                return
            flags = ["--strict"] if strict else []
            arguments = ("check", "--capabilities", str(directory / "capabilities.json"), *flags, "--bundle", *files)
            code, out, err = await self._run(*arguments)
        if code != 0:
            text = (err or out).replace(name, "").strip()[:_SHOWN]
            names = ", ".join(f"{bundle.name} {bundle.version}" for bundle in bundles)
            raise DOES_NOT_COMPILE(f"{names}: {text}")

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
            raise ENGINE_UNAVAILABLE(f"{self._binary.name} cannot be started: {error.strerror}") from error
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
