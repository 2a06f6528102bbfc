"""What is true of PostgreSQL and of nothing else: its schema, two migrations at once, transactions that meet, TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from hub.store.interfaces import Tables
from hub.store.sql.store import SqlStore, open_store
from hub.store.sql.tables import metadata
from tests.fakes.clock import ManualClock
from tests.fakes.pki import Pki, demand_the_form
from tests.fakes.postgres import Server, require, running

KEY = CellKey("shop", "cart", "dev")


@pytest.fixture
async def url(postgres: Server) -> str:
    """Give the URL of a database with tables."""
    return await postgres.new()


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlStore]:
    """Give an open store."""
    opened = await open_store(url, ManualClock())
    yield opened
    await opened.close()


async def test_migrations_make_exactly_the_tables_in_use(store: SqlStore) -> None:
    """The migrated schema and the tables the code uses are one."""

    def compared(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with store._db.read() as connection:
        assert await connection.run_sync(compared) == []


async def test_two_openers_of_a_new_database_agree(postgres: Server) -> None:
    """Migration and epoch are made by one of them while the others wait, and all see the result."""
    url = await postgres.new(migrated=False)
    stores = await asyncio.gather(*(open_store(url, ManualClock()) for _ in range(4)))
    assert len({store.hub_epoch for store in stores}) == 1
    for store in stores:
        await store.close()


async def test_transactions_that_meet_are_run_again_and_none_is_lost(store: SqlStore, url: str) -> None:
    """Forty that read a number and write the next one, in two processes: each of them counts."""
    other = await open_store(url, ManualClock())
    await store.meta.put("count", b"0")
    runs = 0

    async def add(tables: Tables) -> None:
        nonlocal runs
        runs += 1
        found = int(await tables.meta.get("count") or b"0")
        await asyncio.sleep(0)
        await tables.meta.put("count", str(found + 1).encode())

    outcomes = await asyncio.gather(
        *((store, other)[number % 2].transact(add) for number in range(40)), return_exceptions=True
    )
    moved = [one for one in outcomes if isinstance(one, CellwardError)]
    assert {one.code for one in moved} <= {"store/moved"}
    assert await store.meta.get("count") == str(40 - len(moved)).encode()
    assert runs > 40, "no two of them ever met"
    await other.close()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    """A code, and no password in it."""
    with pytest.raises(CellwardError) as caught:
        await open_store("postgresql://hub:secret@127.0.0.1:1/hub?sslmode=disable")
    assert caught.value.code == "store/unavailable"
    assert "secret" not in f"{caught.value} {caught.value.hint}"


async def test_tls_is_verified_unless_somebody_says_otherwise(postgres: Server) -> None:
    """Without a word about TLS a server without a certificate is refused: a password would go to anybody."""
    with pytest.raises(CellwardError) as caught:
        await open_store(postgres.url("postgres").partition("?")[0])
    assert caught.value.code == "store/server-not-verified"
    assert "speaks no TLS" in caught.value.message


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Make a certificate for 127.0.0.1 and its CA."""
    return Pki.make(tmp_path_factory.mktemp("server") / "pki", shape="plain")


@pytest.fixture(scope="module")
def tls(pki: Pki) -> Iterator[Server]:
    """Run a server with TLS."""
    with running(require(), pki) as server:
        yield server


def _url(server: Server, query: str, host: str = "127.0.0.1") -> str:
    return f"postgresql://cellward@{host}:{server.port}/postgres?{query}"


async def test_a_server_with_a_certificate_of_the_given_ca_is_taken(
    tls: Server, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """verify-full is what a URL means that says nothing; the connection is encrypted for real, on every Python."""
    demand_the_form(monkeypatch)
    for query in (f"sslrootcert={pki.ca}", f"sslmode=verify-full&sslrootcert={pki.ca}"):
        store = await open_store(_url(tls, query))
        async with store._db.read() as connection:
            used = text("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            encrypted, version = (await connection.execute(used)).one()
        await store.close()
        assert encrypted
        assert version == "TLSv1.3"


async def test_a_server_of_another_ca_or_another_name_is_refused(
    tls: Server, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a code, what is wrong, and what to do; the system's own CAs are not ours either."""
    demand_the_form(monkeypatch)
    other = Pki.make(tmp_path / "other", shape="plain")
    refused = [
        (_url(tls, f"sslrootcert={other.ca}"), "unable to get local issuer certificate|signature failure|self-signed"),
        (_url(tls, "sslmode=verify-full"), "unable to get local issuer certificate|self-signed"),
        (_url(tls, f"sslrootcert={pki.ca}", "localhost"), "Hostname mismatch"),
    ]
    for url, said in refused:
        with pytest.raises(CellwardError, match=said) as caught:
            await open_store(url)
        assert caught.value.code == "store/server-not-verified"
        assert "sslrootcert" in caught.value.hint
    # The same name is no matter to whoever asks for the CA alone.
    await (await open_store(_url(tls, f"sslmode=verify-ca&sslrootcert={pki.ca}", "localhost"))).close()
