"""A shell as an administrator of one cluster has it: kubectl and helm on PATH, and the cluster's kubeconfig."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tools.parts.locate import path_of


class AdminShell:
    """Runs lines that are meant to be pasted.

    Args:
        directory: for its home and its programs; made here.
        kubeconfig: of the administrator.
        helm: which part is found as ``helm``.
        programs: further programs by name.
        variables: further variables of the environment.
    """

    def __init__(
        self,
        directory: Path,
        kubeconfig: Path,
        *,
        helm: str = "helm",
        programs: Mapping[str, Path] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._home = directory
        places = directory / "bin"
        places.mkdir(parents=True, exist_ok=True)
        for name, program in {"helm": path_of(helm), "kubectl": path_of("kubectl"), **(programs or {})}.items():
            (places / name).unlink(missing_ok=True)
            (places / name).symlink_to(program)
        # Nothing of the caller's clusters, proxies or plugins reaches it.
        self._environment = {
            "PATH": f"{places}:{os.defpath}",
            "HOME": str(directory),
            "KUBECONFIG": str(kubeconfig),
            **(variables or {}),
        }
        self._bash = shutil.which("bash") or "/bin/bash"

    def run(
        self, line: str, *, directory: Path | None = None, seconds: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run one line to its end, with what it wrote.

        Args:
            line: for bash.
            directory: in which it is run; the shell's home by default.
            seconds: after which it is killed.
        """
        return subprocess.run(
            [self._bash, "-euo", "pipefail", "-c", line],
            stdin=subprocess.DEVNULL,
            cwd=directory or self._home,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
