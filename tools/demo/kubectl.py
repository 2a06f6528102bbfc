"""kubectl, as a cluster administrator would use it, against one control plane of the demo."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.demo.narrate import StepFailedError, UnreachableError
from tools.parts.locate import path_of

AGENT_USER = "system:serviceaccount:cellward-system:cellward-agent"


@dataclass(frozen=True)
class Kubectl:
    """Runs kubectl with one kubeconfig; every call is bounded in time."""

    kubeconfig: Path

    def run(self, *args: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one command.

        Raises:
            StepFailedError: it failed and ``check`` is set; the text is kubectl's own.
            UnreachableError: it did not end in a minute.
        """
        try:
            done = subprocess.run(
                [str(path_of("kubectl")), f"--kubeconfig={self.kubeconfig}", "--request-timeout=20s", *args],
                input=stdin or "",
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise UnreachableError(f"kubectl {' '.join(args[:4])} did not end in 60 s") from error
        if check and done.returncode != 0:
            raise StepFailedError(f"kubectl {' '.join(args[:4])}: {done.stderr.strip()}")
        return done

    def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """One object as a dictionary, None when it does not exist."""
        done = self.run("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def list(self, kind: str, *selector: str) -> list[dict[str, Any]]:
        """All objects of a kind in all namespaces that match the label selector."""
        args = ["get", kind, "-A", "-o", "json", *(["-l", ",".join(selector)] if selector else [])]
        items: list[dict[str, Any]] = json.loads(self.run(*args).stdout)["items"]
        return items

    def patch(self, kind: str, namespace: str, name: str, patch: object, *, as_agent: bool = False) -> None:
        """JSON patch, as the administrator or, past the guard, as the agent's own account."""
        extra = [f"--as={AGENT_USER}"] if as_agent else []
        self.run("patch", kind, name, "-n", namespace, "--type=json", f"-p={json.dumps(patch)}", *extra)

    def delete(self, kind: str, namespace: str, name: str, *, as_agent: bool = False) -> None:
        """Delete one object without waiting for its finalizers."""
        extra = [f"--as={AGENT_USER}"] if as_agent else []
        self.run("delete", kind, name, "-n", namespace, "--wait=false", *extra)
