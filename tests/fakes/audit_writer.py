"""A writer of audit chains as an agent is one: real records, real statement key, nothing sent by itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from cellward.audit.chain import ChainState, extend
from cellward.audit.record import Record, encode_record, record_digest
from cellward.audit.statement import sign_statement
from cellward.documents.dsse import Ed25519Signer
from hub.audit.model import AuditBatchIn

REALM = "sha256:" + "ab" * 32
START = datetime(2026, 3, 4, 5, 6, 7, 890000, tzinfo=UTC)


class AuditWriter:
    """One agent's chain; copies of it are clones of the agent."""

    def __init__(self, number: int, *, epoch: int = 1) -> None:
        self.uid = f"{number:08x}-0000-4000-8000-000000000000"
        self.cluster = f"c{number}"
        self.signer = Ed25519Signer.generate()
        self.state = ChainState(epoch)
        #: Size and root of the log that the next records say they have seen.
        self.view = (0, "")

    @property
    def origin(self) -> str:
        """Origin of the records."""
        return f"agent:{self.uid}"

    @property
    def spki(self) -> bytes:
        """Statement key, DER."""
        return self.signer.public_spki_der

    def clone(self) -> AuditWriter:
        """Return a second writer with the same state and key."""
        other = AuditWriter(0)
        other.uid, other.cluster, other.signer = self.uid, self.cluster, self.signer
        other.state, other.view = self.state, self.view
        return other

    def write(self, count: int, *, reason: str = "", details: Mapping[str, str] | None = None) -> list[bytes]:
        """Return the next records."""
        written = []
        for _ in range(count):
            record = Record(
                realm=REALM,
                origin=self.origin,
                cluster=self.cluster,
                epoch=self.state.epoch,
                seq=self.state.seq + 1,
                prev=self.state.head,
                time=START + timedelta(seconds=self.state.seq),
                actor=f"spiffe://x/agent/{self.cluster}",
                action="cell.apply",
                object="Deployment/shop--cart--dev/cart",
                decision="done",
                reason=reason,
                details=details or {"project": "shop", "cell": "cart"},
                log_size=self.view[0],
                log_root=self.view[1],
            )
            data = encode_record(record)
            written.append(data)
            self.state = extend(self.state, data)
        return written

    def batch(self, count: int, *, known: int = 0, reason: str = "") -> AuditBatchIn:
        """Return a batch of the next records."""
        first = self.state.seq + 1
        records = tuple(self.write(count, reason=reason))
        statement = sign_statement(REALM, self.uid, self.state, self.signer)
        return AuditBatchIn(self.state.epoch, first, records, statement, known)

    def statement(self, seq: int, record: bytes) -> bytes:
        """Return a statement that this epoch's record ``seq`` has these bytes."""
        return sign_statement(REALM, self.uid, ChainState(self.state.epoch, seq, record_digest(record)), self.signer)

    def new_epoch(self) -> None:
        """Lose the state, as an agent with an empty directory does."""
        self.state = ChainState(self.state.epoch + 1)
        self.view = (0, "")
