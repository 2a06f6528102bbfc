"""Settings of the hub: one YAML file, strict, with the environment (``CELLWARD_HUB_…``) on top.

Addresses are ``host:port``. What is listened on and what others connect to are two things: the second is ``advertise``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cellward.errors import InvalidInput, define
from cellward.runtime.settings import FileSettings, check_address, load_settings_file

BAD_SETTINGS = define(
    "hub/bad-settings",
    InvalidInput,
    "The hub's settings cannot be used.",
    hint="Correct the fields named; docs/reference lists every setting.",
)

#: The longest life of a TUF timestamp that agents accept, seconds (design §2).
MAX_TIMESTAMP_LIFE = 24 * 3600


def _address(value: str) -> str:
    return check_address(value, least=0)


def _address_or_empty(value: str) -> str:
    return _address(value) if value else value


Address = Annotated[str, AfterValidator(_address)]
OptionalAddress = Annotated[str, AfterValidator(_address_or_empty)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ListenSettings(_Strict):
    """Where the hub listens; four listeners, because they ask for different proofs."""

    enrolment: Address = Field(default="0.0.0.0:7441", description="Enrolment: server-authenticated TLS (gRPC).")
    link: Address = Field(default="0.0.0.0:7442", description="Link of the agents: mutual TLS (gRPC).")
    api: Address = Field(default="0.0.0.0:7443", description="Admin API: TLS and a bearer token (HTTP).")
    metrics: OptionalAddress = Field(
        default="127.0.0.1:7444", description="Prometheus endpoint (HTTP); empty for none."
    )


class AdvertiseSettings(_Strict):
    """What others learn; empty means the address listened on."""

    enrolment: OptionalAddress = Field(default="", description="In join lines.")
    link: OptionalAddress = Field(default="", description="In answers to Join.")
    api: OptionalAddress = Field(default="", description="In messages to people.")


class ProjectSettings(_Strict):
    """What one project may have on this hub, so that none starves another."""

    documents: int = Field(default=20_000, ge=1, description="Most verified documents.")
    pending: int = Field(default=256, ge=1, description="Most documents that wait for signatures.")
    bytes: int = Field(default=512 * 1024**2, ge=1024**2, description="Most bytes of documents.")
    items: int = Field(default=1_000, ge=1, le=4096, description="Most cells times environments.")


class ConnectionSettings(_Strict):
    """Connections each listener takes, in all and of one address, and those of peers that proved nothing yet."""

    link: int = Field(default=4_096, ge=4, description="Link: connections in all; a fleet may come from one address.")
    link_strangers: int = Field(default=2_048, ge=2, description="Link: connections without a proven peer, in all.")
    link_strangers_per_address: int = Field(default=1_536, ge=2, description="The same, of one address.")
    enrolment: int = Field(default=2_048, ge=4, description="Enrolment: connections in all.")
    enrolment_per_address: int = Field(default=1_536, ge=2, description="Enrolment: connections of one address.")
    api: int = Field(default=1_024, ge=4, description="Admin API: connections in all.")
    api_per_address: int = Field(default=512, ge=2, description="Admin API: connections of one address.")
    api_strangers: int = Field(default=256, ge=2, description="Admin API: connections without a token yet, in all.")
    api_strangers_per_address: int = Field(default=128, ge=2, description="The same, of one address.")
    metrics: int = Field(default=128, ge=4, description="Prometheus endpoint: connections in all.")


class LimitSettings(_Strict):
    """Bounds of the admin API and of what agents may push."""

    request_bytes: int = Field(default=32 * 1024**2, ge=64 * 1024, description="Largest request body, bytes.")
    series_per_cluster: int = Field(default=20_000, ge=1, description="Most metric series of one cluster.")
    audit_burst_bytes: int = Field(
        default=64 * 1024**2, ge=4 * 1024**2, description="Audit records of one cluster taken at once, bytes."
    )
    audit_bytes_per_second: int = Field(
        default=16 * 1024, ge=1024, description="Audit records of one cluster taken for ever, bytes per second."
    )
    reserve_bytes: int = Field(
        default=256 * 1024**2,
        ge=1024**2,
        description="Room on SQLite's volume that agents' audit records leave free; at most a quarter of it.",
    )


class HubSettings(FileSettings):
    """Everything the hub is given at start."""

    ENVIRONMENT = "CELLWARD_HUB_"

    data_dir: Path = Field(description="Directory of keys and, by default, of the database; mode 0700.")
    database_url: str = Field(
        default="",
        description="Empty for SQLite in data_dir, or postgresql://USER@HOST/NAME?sslmode=verify-full&sslrootcert=FILE.",
    )
    backup_dir: Path | None = Field(
        default=None, description="Where backups asked for at the admin API are written; best on another volume."
    )
    listen: ListenSettings = Field(default_factory=ListenSettings)
    advertise: AdvertiseSettings = Field(default_factory=AdvertiseSettings)
    hostnames: tuple[str, ...] = Field(
        default=("localhost", "127.0.0.1"), description="DNS names and IP addresses of the hub's own certificate."
    )
    passphrase_file: Path | None = Field(
        default=None, description="Passphrase of the hub's keys; absent: data_dir/passphrase, made at first start."
    )
    admin_token_file: Path | None = Field(
        default=None,
        description="File with the first admin token, the only one of its kind in force; made (0600) when missing.",
    )
    api_ca_file: Path | None = Field(default=None, description="Where the CA of the API's certificate is written, PEM.")
    timestamp_life_seconds: int = Field(
        default=MAX_TIMESTAMP_LIFE, ge=60, le=MAX_TIMESTAMP_LIFE, description="Life of a TUF timestamp, seconds."
    )
    join_token_seconds: int = Field(default=1800, ge=60, le=1800, description="Life of a join token, seconds (V6).")
    drain_seconds: float = Field(default=5.0, gt=0, le=120, description="Grace given to streams at shutdown, seconds.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    limits: LimitSettings = Field(default_factory=LimitSettings)
    connections: ConnectionSettings = Field(default_factory=ConnectionSettings)
    per_project: ProjectSettings = Field(default_factory=ProjectSettings)

    @property
    def database(self) -> str:
        """Database URL in force."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir / 'hub.db'}"

    @property
    def first_token_file(self) -> Path:
        """File of the first admin token."""
        return self.admin_token_file or self.data_dir / "admin.token"

    @property
    def enrolment_address(self) -> str:
        """Enrolment address as given to others."""
        return self.advertise.enrolment or self.listen.enrolment

    @property
    def link_address(self) -> str:
        """Link address as given to others."""
        return self.advertise.link or self.listen.link

    @property
    def api_address(self) -> str:
        """API address as given to others."""
        return self.advertise.api or self.listen.api


def load_settings(path: Path) -> HubSettings:
    """Read and check the settings file.

    Raises:
        CellwardError: ``hub/bad-settings``, naming each field that is wrong.
    """
    return load_settings_file(path, HubSettings, BAD_SETTINGS)
