"""What a hub hands to whoever administers it, on its machine: its authority, the first token, a backup.

``cellward-hub ca|admin-token|ask-backup``. They read the settings' files and ask the API; no database is opened, and a
hub that runs is not disturbed.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cellward.errors import CellwardError, Internal, InvalidInput, Unavailable, define
from cellward.identity.contexts import client_context
from hub.authority.keystore import AUTHORITY_FILE

if TYPE_CHECKING:
    from hub.settings import HubSettings

NOT_THERE = define(
    "hub/file-not-there",
    InvalidInput,
    "A file that the settings name is not there, or cannot be read.",
    hint="Start the hub once: it makes its keys and the first admin token. Then run this as the hub's own user.",
)
NOT_ASKED = define(
    "hub/not-asked",
    Unavailable,
    "The hub's API does not answer.",
    hint="See whether the hub runs, and whether advertise.api of the settings is where its API is.",
)
NOT_DONE = define(
    "hub/not-done",
    Internal,
    "The hub did not do what it was asked for.",
    hint="The message has the hub's own code: look it up in the reference of errors.",
)

#: A backup of a large database takes minutes.
_SECONDS: Final = 600.0
_MAX_ANSWER: Final = 65_536
_MAX_FILE: Final = 65_536


async def authority(settings: HubSettings, _: Path | None) -> str:
    """``cellward-hub ca``: the CA of the hub's certificates, PEM; it is public."""
    return await _text(settings.data_dir / "keys" / AUTHORITY_FILE)


async def admin_token(settings: HubSettings, _: Path | None) -> str:
    """``cellward-hub admin-token``: the first admin's token, which is a secret."""
    return await _text(settings.first_token_file)


async def ask_backup(settings: HubSettings, _: Path | None) -> Mapping[str, object]:
    """``cellward-hub ask-backup``: have the hub at ``advertise.api`` write a backup; returns what it wrote.

    Its certificate is checked against ``api_ca_file``, and the token is that of ``admin_token_file``. This need not be
    the machine of the hub, and nothing of the hub's data is read here.
    """
    ca = settings.api_ca_file or settings.data_dir / "keys" / AUTHORITY_FILE
    token = (await _text(settings.first_token_file)).strip()
    return await asyncio.to_thread(_post, settings.api_address, "/v1/backups", token, await _text(ca))


async def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return (await asyncio.to_thread(file.read, _MAX_FILE)).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise NOT_THERE(f"{path} cannot be read: {error}", file=path) from error


def _post(address: str, path: str, token: str, ca_pem: str) -> Mapping[str, object]:
    context = client_context(ca_pem.encode())
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"https://{address}{path}", b"{}", headers, method="POST")
    # No proxy, whatever the environment says, and no way to another address: the token is for this hub alone.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context), _NoRedirect
    )
    try:
        with opener.open(request, timeout=_SECONDS) as answer:
            return _object(answer.read(_MAX_ANSWER))
    except urllib.error.HTTPError as error:
        raise _refusal(error.code, _object(error.read(_MAX_ANSWER))) from error
    except OSError as error:
        raise NOT_ASKED(f"{address} does not answer: {error}", address=address) from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _refusal(status: int, problem: Mapping[str, object]) -> CellwardError:
    said = f"{problem.get('detail', problem.get('title', ''))!s:.300} [{problem.get('code', '')!s:.80}]"
    return NOT_DONE(f"HTTP {status}: {said}", status=status)


def _object(data: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
