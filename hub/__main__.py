"""``cellward-hub run|backup|fsck|restore|archive|prune|compact|ca|admin-token|ask-backup --config FILE``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cellward.runtime.command import Program, Tool
from hub.settings import HubSettings, load_settings


async def _serve(settings: HubSettings) -> None:
    # Imported late: --help and a bad settings file need neither gRPC nor the database.
    from hub.app import main as serve  # noqa: PLC0415

    await serve(settings)


async def _back_up(settings: HubSettings, target: Path | None) -> Mapping[str, object]:
    from hub.keeping import back_up  # noqa: PLC0415 - as above

    return await back_up(settings, target)


async def _fsck(settings: HubSettings, backup: Path | None) -> Mapping[str, object]:
    from hub.keeping import fsck  # noqa: PLC0415 - as above

    return await fsck(settings, backup)


async def _restore(settings: HubSettings, backup: Path | None) -> Mapping[str, object]:
    from hub.keeping import restore  # noqa: PLC0415 - as above

    return await restore(settings, backup)


async def _archive(settings: HubSettings, directory: Path | None) -> Mapping[str, object]:
    from hub.keeping import archive  # noqa: PLC0415 - as above

    return await archive(settings, directory)


async def _prune(settings: HubSettings, file: Path | None) -> Mapping[str, object]:
    from hub.keeping import prune  # noqa: PLC0415 - as above

    return await prune(settings, file)


async def _compact(settings: HubSettings, _: Path | None) -> Mapping[str, object]:
    from hub.keeping import give_back  # noqa: PLC0415 - as above

    return await give_back(settings, None)


async def _authority(settings: HubSettings, _: Path | None) -> str:
    from hub.handing import authority  # noqa: PLC0415 - as above

    return await authority(settings, None)


async def _admin_token(settings: HubSettings, _: Path | None) -> str:
    from hub.handing import admin_token  # noqa: PLC0415 - as above

    return await admin_token(settings, None)


async def _ask_backup(settings: HubSettings, _: Path | None) -> Mapping[str, object]:
    from hub.handing import ask_backup  # noqa: PLC0415 - as above

    return await ask_backup(settings, None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the hub; exit 0 after an orderly stop, otherwise by the error's class."""
    tools = (
        Tool("backup", "write a backup to a new file, or into a directory; the hub may run", _back_up, "TARGET"),
        Tool("fsck", "check the database for damage (the hub may run), or a backup", _fsck, "[BACKUP]"),
        Tool("archive", "export every sealed segment of the audit log; the hub may run", _archive, "DIRECTORY"),
        Tool("prune", "delete the segment of the audit log that the file was exported from", _prune, "SEGMENT"),
        Tool("compact", "shrink the SQLite database to what it uses; the hub must not run", _compact),
        Tool("restore", "check a backup and make it the database; no hub may run on it", _restore, "[BACKUP]"),
        Tool("ca", "print the CA of the hub's certificates, PEM", _authority),
        Tool("admin-token", "print the first admin's token, for `cellward login --token-file -`", _admin_token),
        Tool("ask-backup", "have the hub that runs at advertise.api write a backup into its backup_dir", _ask_backup),
    )
    return Program(
        "cellward-hub", "The Cellward control plane.", "serve until stopped", load_settings, _serve, tools
    ).main(argv)


if __name__ == "__main__":
    sys.exit(main())
