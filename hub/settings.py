"""Settings of the hub: one YAML file, strict, with the environment (``CELLWARD_HUB_…``) on top.

Addresses are ``host:port``. What is listened on and what is told to others are two things: the second is ``advertise``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from cellward.errors import InvalidInput, define

BAD_SETTINGS = define(
    "hub/bad-settings",
    InvalidInput,
    "The hub's settings cannot be used.",
    hint="Correct the fields named; docs/reference lists every setting.",
)

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})\Z")
_MAX_FILE = 256 * 1024
#: The longest life of a TUF timestamp that agents accept, seconds (design §2).
MAX_TIMESTAMP_LIFE = 24 * 3600


def _address(value: str) -> str:
    match = _ADDRESS.match(value)
    if match is None or int(match.group(2)) > 65535:
        raise ValueError("must be host:port")
    return value


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
    """What is told to others; empty means the address listened on."""

    enrolment: OptionalAddress = Field(default="", description="In join lines.")
    link: OptionalAddress = Field(default="", description="In answers to Join.")
    api: OptionalAddress = Field(default="", description="In messages to people.")


class LimitSettings(_Strict):
    """Bounds of the admin API and of what agents may push."""

    request_bytes: int = Field(default=32 * 1024**2, ge=64 * 1024, description="Largest request body, bytes.")
    series_per_cluster: int = Field(default=20_000, ge=1, description="Most metric series of one cluster.")


class HubSettings(BaseSettings):
    """Everything the hub is told at start."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="CELLWARD_HUB_", env_nested_delimiter="__"
    )

    data_dir: Path = Field(description="Directory of keys and, by default, of the database; mode 0700.")
    database_url: str = Field(default="", description="SQLAlchemy URL; empty means SQLite in data_dir.")
    listen: ListenSettings = Field(default_factory=ListenSettings)
    advertise: AdvertiseSettings = Field(default_factory=AdvertiseSettings)
    hostnames: tuple[str, ...] = Field(
        default=("localhost", "127.0.0.1"), description="DNS names and IP addresses of the hub's own certificate."
    )
    passphrase_file: Path | None = Field(
        default=None, description="Passphrase of the hub's keys; absent: data_dir/passphrase, made at first start."
    )
    admin_token_file: Path | None = Field(
        default=None, description="File with the first admin token; made with a random one (0600) when missing."
    )
    api_ca_file: Path | None = Field(default=None, description="Where the CA of the API's certificate is written, PEM.")
    timestamp_life_seconds: int = Field(
        default=MAX_TIMESTAMP_LIFE, ge=60, le=MAX_TIMESTAMP_LIFE, description="Life of a TUF timestamp, seconds."
    )
    join_token_seconds: int = Field(default=1800, ge=60, le=1800, description="Life of a join token, seconds (V6).")
    drain_seconds: float = Field(default=5.0, gt=0, le=120, description="Grace given to streams at shutdown, seconds.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    limits: LimitSettings = Field(default_factory=LimitSettings)

    @property
    def database(self) -> str:
        """Database URL in force."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir / 'hub.db'}"

    @property
    def enrolment_address(self) -> str:
        """Enrolment address as told to others."""
        return self.advertise.enrolment or self.listen.enrolment

    @property
    def link_address(self) -> str:
        """Link address as told to others."""
        return self.advertise.link or self.listen.link

    @property
    def api_address(self) -> str:
        """API address as told to others."""
        return self.advertise.api or self.listen.api

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - signature of the base
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - a stray .env file must not configure a hub
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment beat the file."""
        return env_settings, init_settings


def load_settings(path: Path) -> HubSettings:
    """Read and check the settings file.

    Raises:
        CellwardError: ``hub/bad-settings``, naming each field that is wrong.
    """
    values = _read_yaml(path)
    try:
        return HubSettings(**values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or '(top)'}: {item['msg']}"
            for item in error.errors(include_url=False)
        )
        raise BAD_SETTINGS(f"{path}: {problems}", file=path) from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_FILE:
            raise BAD_SETTINGS(f"{path} is larger than {_MAX_FILE} bytes", file=path)
        values = yaml.load(path.read_bytes(), Loader=_UniqueKeyLoader)  # noqa: S506 - derived from SafeLoader
    except OSError as error:
        raise BAD_SETTINGS(f"{path} cannot be read: {error.strerror}", file=path) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise BAD_SETTINGS(f"{path} is not valid YAML: {' '.join(str(error).split())[:200]}", file=path) from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise BAD_SETTINGS(f"{path} must hold one mapping with string keys", file=path)
    return values


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT002
        """Build a mapping, refusing duplicates."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value!r} is given twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)
