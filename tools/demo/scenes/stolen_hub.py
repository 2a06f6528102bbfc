"""The attacker: has every key of the hub and its database, and tries to make agents do what no author signed.

Writes into the running hub's store from the side, exactly as somebody with its disk could; the hub's streams notice
and deliver. Nothing here uses a key of the authors, except where the scene says that an author signed it.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cellward.documents import dsse
from hub.authority.keystore import KeyStore
from hub.authority.model import HubKeys
from hub.store.documents import DocumentRow
from hub.store.interfaces import DesiredChange
from hub.store.sql.store import open_store


@dataclass(frozen=True)
class Loot:
    """What was stolen: the hub's data directory and the passphrase of its keys."""

    data: Path
    passphrase: bytes

    def keys(self) -> HubKeys:
        """Every key the hub has."""
        return KeyStore(self.data / "keys", self.passphrase).open(datetime.now(UTC))

    def attestation(self) -> dsse.Ed25519Signer:
        """A signer of documents, as good as the hub can have one."""
        return dsse.Ed25519Signer(self.keys().attestation)

    def timestamp(self) -> dsse.Ed25519Signer:
        """The real signer of TUF timestamps."""
        return dsse.Ed25519Signer(self.keys().timestamp)

    def plant(self, row: DocumentRow) -> None:
        """Put a document where agents fetch documents from."""

        async def work() -> None:
            store = await open_store(f"sqlite+aiosqlite:///{self.data / 'hub.db'}")
            try:
                await store.documents.put_many([row])
            finally:
                await store.close()

        asyncio.run(work())

    def desire(self, change: DesiredChange) -> None:
        """Tell a cluster that this is what it should run."""

        async def work() -> None:
            store = await open_store(f"sqlite+aiosqlite:///{self.data / 'hub.db'}")
            try:
                await store.desired.upsert_many([change])
            finally:
                await store.close()

        asyncio.run(work())

    @contextmanager
    def invited_for(self, cluster: str, environment: str) -> Iterator[None]:
        """Let the hub believe that a cluster was invited for one more environment."""
        with self.database() as database:
            query = "SELECT invited FROM clusters WHERE name=?"
            before: str = database.execute(query, (cluster,)).fetchone()[0]
        facts = json.loads(before)
        facts["environments"] = sorted({*facts.get("environments", ()), environment})
        change = "UPDATE clusters SET invited=? WHERE name=?"
        with self.database() as database:
            database.execute(change, (json.dumps(facts), cluster))
        try:
            yield
        finally:
            with self.database() as database:
                database.execute(change, (before, cluster))

    @contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """The database itself, past everything that guards it."""
        with closing(sqlite3.connect(self.data / "hub.db", timeout=20)) as connection:
            yield connection
            connection.commit()
