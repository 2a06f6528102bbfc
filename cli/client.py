"""The API client: the standard library's HTTP over TLS that trusts the given CA alone, and errors as our own.

Synchronous on purpose: a command asks a few things one after the other, and starts faster without an event loop.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from cellward.errors import CellwardError, ErrorCode, known
from cli import errors

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

    _M = TypeVar("_M", bound=BaseModel)

#: Seconds until a silent hub counts as unreachable.
TIMEOUT = 30.0
#: Largest answer read into memory.
MAX_ANSWER = 64 * 1024**2
_PIECE = 256 * 1024
#: Longest token and address taken.
MAX_TOKEN, MAX_SERVER = 4096, 300
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?\Z")


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the hub is and how to prove oneself; ``server`` is ``https://host:port``."""

    server: str
    ca_file: Path
    token: str


def parse_server(text: str, source: str = "--server") -> tuple[str, int]:
    """Return host and port of ``https://host:port``; raises cli/bad-option. Plain HTTP would show the token."""
    wrong = errors.BAD_OPTION(
        f"{source}: {text[:MAX_SERVER]!r} is not https://host:port", hint="Give https://HOST or https://HOST:PORT."
    )
    if len(text) > MAX_SERVER or not text.isprintable() or " " in text:
        raise wrong
    try:
        parts = urlsplit(text)
        port = 443 if parts.port is None else parts.port
        host = _host(parts.hostname or "")
    except ValueError as error:
        raise wrong from error
    if parts.scheme != "https" or not port or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise wrong
    if parts.username is not None or parts.password is not None:
        raise wrong
    return host, port


def _host(text: str) -> str:
    """Return an address, or a name as it is looked up; raises ValueError."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        name = text if text.isascii() else text.encode("idna").decode("ascii")
    if not _HOST.match(name.lower()) or len(name) > 253:
        raise ValueError("neither a name nor an address")
    return name


def check_token(data: bytes, source: object, wrong: ErrorCode) -> str:
    """Return a token that can stand in a header: one word of ASCII; raises ``wrong``, without showing the token."""
    found = data.strip()
    if not found:
        raise wrong(f"{source} holds no token")
    if len(found) > MAX_TOKEN or not all(0x21 <= byte <= 0x7E for byte in found):
        raise wrong(
            f"{source} holds something else than one API token",
            hint="A token is one word of ASCII, as the hub or `cellward tokens create` made it.",
        )
    return found.decode("ascii")


class Client:
    """Asks one hub; every failure is a CellwardError with a hint."""

    def __init__(self, profile: Profile, *, timeout: float = TIMEOUT) -> None:
        self._profile = profile
        self._timeout = timeout
        self._host, self._port = parse_server(profile.server)

    def get(self, path: str, model: type[_M], **query: str | int | bool) -> _M:
        """GET a resource below /v1; empty query values are left out."""
        return self._parse(self._ask("GET", path, None, query), model)

    def post(self, path: str, body: BaseModel, model: type[_M]) -> _M:
        """POST a body to a resource below /v1."""
        return self._parse(self._ask("POST", path, body.model_dump_json(by_alias=True).encode(), {}), model)

    def delete(self, path: str, model: type[_M]) -> _M:
        """DELETE a resource below /v1; returns what it was."""
        return self._parse(self._ask("DELETE", path, None, {}), model)

    def stream(self, path: str) -> Iterator[bytes]:
        """GET a long answer in pieces."""
        connection, response = self._open("GET", path, None, {})
        try:
            while piece := response.read(_PIECE):
                yield piece
        except (OSError, http.client.HTTPException) as error:
            raise errors.UNREACHABLE(f"the answer of {self._profile.server} ended early: {error}") from error
        finally:
            connection.close()

    def _ask(self, method: str, path: str, body: bytes | None, query: dict[str, str | int | bool]) -> bytes:
        connection, response = self._open(method, path, body, query)
        try:
            data = response.read(MAX_ANSWER + 1)
        except (OSError, http.client.HTTPException) as error:
            raise errors.UNREACHABLE(f"the answer of {self._profile.server} ended early: {error}") from error
        finally:
            connection.close()
        if len(data) > MAX_ANSWER:
            raise errors.BAD_ANSWER(f"the answer to {path} is larger than {MAX_ANSWER} bytes")
        return data

    def _open(
        self, method: str, path: str, body: bytes | None, query: dict[str, str | int | bool]
    ) -> tuple[http.client.HTTPSConnection, http.client.HTTPResponse]:
        texts = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in query.items()}
        texts = {key: value for key, value in texts.items() if value not in {"", "false"}}
        target = "/v1" + quote(path, safe="/:") + ("?" + urlencode(texts) if texts else "")
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=self._tls())
        headers = {"Authorization": f"Bearer {self._profile.token}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            if response.status >= http.client.BAD_REQUEST:
                raise error_of(response.status, response.read(1024 * 1024), target)
        except ssl.SSLCertVerificationError as error:
            connection.close()
            message = f"{self._profile.server}: {error.verify_message}"
            raise errors.UNTRUSTED_HUB(message) from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise errors.UNREACHABLE(f"{self._profile.server}: {_reason(error)}") from error
        except CellwardError:
            connection.close()
            raise
        return connection, response

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_verify_locations(cafile=str(self._profile.ca_file))
        except (OSError, ValueError) as error:
            raise errors.BAD_FILE(f"{self._profile.ca_file} cannot be used as CA: {_reason(error)}") from error
        return context

    def _parse(self, data: bytes, model: type[_M]) -> _M:
        try:
            return model.model_validate_json(data)
        except ValueError as error:
            raise errors.BAD_ANSWER(f"{self._profile.server} answered something else than {model.__name__}") from error


def error_of(status: int, data: bytes, target: str) -> CellwardError:
    """Return the error of a problem: the very code when this CLI knows it, otherwise one of cli/hub-*."""
    try:
        problem = json.loads(data)
    except (ValueError, RecursionError):
        problem = None
    if not isinstance(problem, dict) or "code" not in problem:
        return errors.BAD_ANSWER(f"{target} answered with status {status}, which is not an answer of a hub")
    details = problem.get("details")
    details = {str(key): str(value) for key, value in details.items()} if isinstance(details, dict) else {}
    entry = known(str(problem["code"])) or _fallback(status)
    error = entry(str(problem.get("detail", "")), hint=str(problem.get("hint", "")) or None)
    return type(error)(str(problem["code"]), str(problem.get("title", "")), error.message, error.hint, details)


def _fallback(status: int) -> ErrorCode:
    if status in {401, 403}:
        return errors.HUB_DENIED
    if status in {429, 503}:
        return errors.HUB_UNAVAILABLE
    if status == 404:
        return errors.HUB_NOT_FOUND
    if status == 409:
        return errors.HUB_CONFLICT
    if status == 400:
        return errors.BAD_OPTION
    return errors.HUB_REFUSED if status == 422 else errors.HUB_ERROR


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
