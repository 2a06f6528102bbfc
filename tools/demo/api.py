"""Looking at the admin API while waiting: cheaper than a CLI process for each look."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tools.demo.narrate import StepFailedError, UnreachableError


class HubApi:
    """Reads the hub's admin API with a token and the CA that the hub wrote at its start."""

    def __init__(self, address: str, ca_file: Path, token_file: Path) -> None:
        self._base = f"https://{address}/v1"
        self._ca_file = ca_file
        self._token_file = token_file

    def get(self, path: str, **query: str) -> Any:
        """GET one resource.

        Raises:
            StepFailedError: the hub refused.
            UnreachableError: it does not answer, or is busy coming or going.
        """
        return json.loads(self.raw(path, **query))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST to one resource; raises as :meth:`get`."""
        return json.loads(self._asked("POST", path, json.dumps(body).encode()))

    def raw(self, path: str, **query: str) -> bytes:
        """GET the bytes of one resource."""
        return self._asked("GET", path + (f"?{urllib.parse.urlencode(query)}" if query else ""))

    def _asked(self, method: str, path: str, data: bytes | None = None) -> bytes:
        headers = {"Authorization": f"Bearer {self._token_file.read_text().strip()}"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(  # noqa: S310 - always https, see __init__
            self._base + path, data=data, headers=headers, method=method
        )
        context = ssl.create_default_context(cafile=str(self._ca_file))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with opener.open(request, timeout=20) as answer:
                body: bytes = answer.read()
                return body
        except urllib.error.HTTPError as error:
            kind = UnreachableError if error.code >= 500 else StepFailedError
            raise kind(f"{method} {path}: {error.code} {error.read()[:400]!r}") from error
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"{method} {path}: {error or type(error).__name__}") from error

    def alive(self) -> bool:
        """Whether the hub answers at all."""
        try:
            self.raw("/healthz")
        except (StepFailedError, OSError):
            return False
        return True

    def records(self, after: str = "") -> tuple[list[dict[str, Any]], str]:
        """Every audit record after a cursor, and the cursor to go on from."""
        found: list[dict[str, Any]] = []
        cursor = after
        while True:
            page = self.get("/audit/records", **({"cursor": cursor} if cursor else {}))
            found += page["items"]
            if not page["items"] or page["nextCursor"] == cursor:
                return found, page["nextCursor"] or cursor
            cursor = page["nextCursor"]

    def cell_states(self, cluster: str = "", cell: str = "") -> list[dict[str, Any]]:
        """State of every cell on every cluster, or of those named."""
        states: list[dict[str, Any]] = []
        for item in self.get("/cells")["items"]:
            whole = self.get(f"/cells/{item['project']}/{item['cell']}")
            states += whole["states"]
        return [s for s in states if cluster in {"", s["cluster"]} and cell in {"", s["cell"]}]
