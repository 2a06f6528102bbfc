"""Commands from the hub: a closed list, each for this boot, unexpired, run once (V2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from agent.link.errors import COMMAND_REFUSED
from agent.link.interfaces import CommandKind, CommandRequest
from cellward.wire.v1 import link_pb2

#: Longest life a command may have; what lives longer is refused, so that ids need not be remembered for ever.
MAX_LIFE_SECONDS = 900
#: Ids remembered at most; above it nothing new is taken until old ones expire.
MAX_REMEMBERED = 1024

_KINDS: Mapping[int, CommandKind] = {
    link_pb2.COMMAND_KIND_RESYNC: CommandKind.RESYNC,
    link_pb2.COMMAND_KIND_PROBE: CommandKind.PROBE,
    link_pb2.COMMAND_KIND_DIAGNOSE: CommandKind.DIAGNOSE,
    link_pb2.COMMAND_KIND_RENEW: CommandKind.RENEW,
    link_pb2.COMMAND_KIND_RECONNECT: CommandKind.RECONNECT,
}
_NAME = r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?"
_SUBJECTS: Mapping[CommandKind, re.Pattern[str]] = {
    CommandKind.PROBE: re.compile(rf"{_NAME}/{_NAME}/{_NAME}\Z"),
    CommandKind.DIAGNOSE: re.compile(rf"{_NAME}\Z"),
}
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")


class CommandGate:
    """Decides whether a command may run; lives as long as the process, so that no reconnect makes it forget."""

    def __init__(self, boot_id: str) -> None:
        self._boot_id = boot_id
        self._seen: dict[str, int] = {}

    def admit(self, message: link_pb2.Command, now: datetime) -> CommandRequest:
        """Return the command to run; raises ``link/command-refused`` saying why not."""
        kind = _KINDS.get(message.kind)
        seconds = int(now.timestamp())
        self._seen = {key: expires for key, expires in self._seen.items() if expires > seconds}
        if not _ID.match(message.id):
            raise COMMAND_REFUSED("the command has no proper id")
        if kind is None:
            raise COMMAND_REFUSED(f"command kind {message.kind} is not on the list")
        if message.boot_id != self._boot_id:
            raise COMMAND_REFUSED("the command is meant for another boot of the agent")
        if not seconds < message.expires_unix <= seconds + MAX_LIFE_SECONDS:
            raise COMMAND_REFUSED(f"the command has expired, or lives longer than {MAX_LIFE_SECONDS} s")
        if message.id in self._seen:
            raise COMMAND_REFUSED(f"the command {message.id} was run before")
        if len(self._seen) >= MAX_REMEMBERED:
            raise COMMAND_REFUSED("too many commands at once")
        pattern = _SUBJECTS.get(kind)
        if (pattern is None and message.subject) or (pattern is not None and not pattern.match(message.subject)):
            raise COMMAND_REFUSED(f"the subject does not fit a {kind.value} command")
        self._seen[message.id] = message.expires_unix
        return CommandRequest(message.id, kind, message.subject)
