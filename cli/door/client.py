"""The API client: HTTP over TLS 1.3 that trusts the given CA alone; answers are typed values, errors are our own.

Synchronous on purpose: a command asks a few things one after the other, and starts faster without an event loop.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NewType, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from cellward.documents.strict import strict_json
from cellward.errors import CellwardError, ErrorCode
from cli import errors
from cli.door.answers import parse_answer, problem
from cli.door.bounds import BoundedConnection

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

    _M = TypeVar("_M", bound=BaseModel)

#: Seconds until a silent hub counts as unreachable.
TIMEOUT = 30.0
#: Largest answer read into memory.
MAX_ANSWER = 64 * 1024**2
_PIECE = 256 * 1024
#: Largest long answer, and room for what HTTP adds to any.
MAX_LONG, _ROOM = 16 * 1024**3, 8 * 1024**2
#: Longest line of a long answer.
MAX_LINE = 8 * 1024**2
#: Longest token and address taken.
MAX_TOKEN, MAX_SERVER = 4096, 300
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?\Z")

#: What reading a broken answer raises; ValueError where a length is below nothing.
_BROKEN = (OSError, http.client.HTTPException, ValueError)

#: A line of JSON that was read strictly, with its end.
Line = NewType("Line", bytes)


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
        return parse_answer(self._ask("GET", path, None, query), model, self._profile.server)

    def post(self, path: str, body: BaseModel, model: type[_M]) -> _M:
        """POST a body to a resource below /v1."""
        return parse_answer(
            self._ask("POST", path, body.model_dump_json(by_alias=True).encode(), {}), model, self._profile.server
        )

    def delete(self, path: str, model: type[_M]) -> _M:
        """DELETE a resource below /v1; returns what it was."""
        return parse_answer(self._ask("DELETE", path, None, {}), model, self._profile.server)

    def lines(self, path: str) -> Iterator[Line]:
        """GET a long answer line by line; each line is one strict JSON object, or cli/bad-answer is raised."""
        rest = b""
        for piece in self._stream(path):
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                yield self._line(line, path)
            if len(rest) > MAX_LINE:
                raise errors.BAD_ANSWER(f"a line of the answer to {path} is longer than {MAX_LINE} bytes")
        if rest:
            raise errors.BAD_ANSWER(f"the answer to {path} ends within a line")

    def _line(self, line: bytes, path: str) -> Line:
        try:
            found = strict_json(line)
        except (ValueError, RecursionError) as error:
            raise errors.BAD_ANSWER(f"a line of the answer to {path} is not JSON") from error
        # It is piped and looked at before anything verifies it, so it must not hold what a terminal obeys.
        if not isinstance(found, dict) or not line.isascii() or not line.decode("ascii").isprintable():
            raise errors.BAD_ANSWER(f"a line of the answer to {path} is not an object in ASCII")
        return Line(line + b"\n")

    def _stream(self, path: str) -> Iterator[bytes]:
        connection, response = self._open("GET", path, None, {}, MAX_LONG)
        try:
            while piece := response.read(_PIECE):
                yield piece
        except _BROKEN as error:
            raise errors.UNREACHABLE(f"the answer of {self._profile.server} ended early: {_reason(error)}") from error
        finally:
            response.close()
            connection.close()

    def _ask(self, method: str, path: str, body: bytes | None, query: dict[str, str | int | bool]) -> bytes:
        connection, response = self._open(method, path, body, query, MAX_ANSWER)
        try:
            data = response.read(MAX_ANSWER + 1)
        except _BROKEN as error:
            raise errors.UNREACHABLE(f"the answer of {self._profile.server} ended early: {_reason(error)}") from error
        finally:
            response.close()
            connection.close()
        if len(data) > MAX_ANSWER:
            raise errors.BAD_ANSWER(f"the answer to {path} is larger than {MAX_ANSWER} bytes")
        return data

    def _open(
        self, method: str, path: str, body: bytes | None, query: dict[str, str | int | bool], most: int
    ) -> tuple[http.client.HTTPSConnection, http.client.HTTPResponse]:
        texts = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in query.items()}
        texts = {key: value for key, value in texts.items() if value not in {"", "false"}}
        target = "/v1" + quote(path, safe="/:") + ("?" + urlencode(texts) if texts else "")
        connection = BoundedConnection(
            self._host, self._port, timeout=self._timeout, context=self._tls(), most=most + _ROOM
        )
        headers = {"Authorization": f"Bearer {self._profile.token}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            if response.status >= http.client.BAD_REQUEST:
                with response:
                    raise problem(response.status, response.read(1024 * 1024), target)
        except ssl.SSLCertVerificationError as error:
            connection.close()
            message = f"{self._profile.server}: {error.verify_message}"
            raise errors.UNTRUSTED_HUB(message) from error
        except _BROKEN as error:
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


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no whole answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
