"""Shapes of the admin API about the upkeep of the hub's data."""

from __future__ import annotations

from pydantic import Field

from cellward.api.base import Request, Response
from cellward.api.schemas import Digest


class Backup(Response):
    """A backup that was written into the hub's directory for backups."""

    name: str = Field(description="Name of the file.")
    size: int = Field(description="Bytes.")
    digest: Digest = Field(description="SHA-256 of the file.")


class StoreCheck(Response):
    """A look for damage that found none."""

    pages: str = Field(description="How the database was looked at.")
    audit_records: int = Field(description="Records of the audit log that fit its hashes.")


class AuditSegment(Response):
    """A sealed segment of the audit log: it never changes."""

    number: int
    first: int = Field(description="Index of its first record.")
    end: int = Field(description="Index behind its last record.")
    pruned: bool = Field(description="Whether its records were exported and are not here any more.")


class AuditSegmentList(Response):
    """Every sealed segment, oldest first."""

    items: list[AuditSegment]


class SegmentPrune(Request):
    """What shows that the segment was exported: nothing is pruned without."""

    digest: Digest = Field(description="SHA-256 of the exported file.")
