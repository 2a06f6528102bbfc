"""Settings of the agent: one YAML file, strict, with the environment (``CELLWARD_AGENT_…``) on top of its tunables.

The agent's name is not among them: it comes from the certificate (V3). Neither is anything the hub could change: facts
come from here, read-only for the agent. Whom the agent trusts, the facts of its cluster and where it keeps its
state come from the file alone: two places that could disagree about trust would be one too many.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cellward.errors import InvalidInput, define
from cellward.runtime.settings import FileSettings, check_address, in_environment, load_settings_file, variable_of

INVALID_SETTINGS = define(
    "settings/invalid",
    InvalidInput,
    "The settings file cannot be used.",
    hint="Correct the fields named; docs/reference lists every setting.",
)

_REALM = re.compile(r"sha256:[0-9a-f]{64}\Z")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")

#: Settings that the environment may change, and that the chart takes as free ``settings``. All others are trust.
TUNABLES = frozenset({"opa_binary", "metrics_listen", "log_level", "isolation_probe", "spool", "intervals"})

Seconds = Annotated[float, Field(gt=0, le=86400)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FactSettings(_Strict):
    """Cluster facts (design §2): what bindings and selectors match."""

    name: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$",
        description="Name of this cluster, from the invitation; a certificate for another name is refused.",
    )
    environments: tuple[str, ...] = Field(min_length=1, description="Environments this cluster hosts.")
    production: bool = Field(description="Whether production rules apply; has no default on purpose.")
    labels: dict[str, str] = Field(default_factory=dict, description="Free labels.")
    region: str = Field(default="", description="Region name.")
    projects: tuple[str, ...] = Field(default=("*",), min_length=1, description='Allowed projects; "*" means all.')

    @field_validator("environments")
    @classmethod
    def _environments(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if len(name) > 12 or not _LABEL.match(name) or "--" in name:
                raise ValueError(f"{name!r} is not an environment name (RFC 1123, at most 12 characters, no '--')")
        if len(set(value)) != len(value):
            raise ValueError("an environment is named twice")
        return value


class SpoolSettings(_Strict):
    """Bounds of the durable state."""

    max_bytes: int = Field(default=512 * 1024**2, ge=1024**2, description="Bound of the whole state file, bytes.")
    audit_max_bytes: int = Field(
        default=256 * 1024**2, ge=64 * 1024, description="Bound of the spooled audit records, bytes."
    )


class IntervalSettings(_Strict):
    """How often things happen, seconds."""

    heartbeat: Seconds = Field(default=60.0, description="Between two heartbeats on the link.")
    status: Seconds = Field(
        default=15.0, description="Between two looks at the agent's own state; unchanged it is reported once a minute."
    )
    metrics: Seconds = Field(default=60.0, description="Between two pushes of metrics.")
    audit: Seconds = Field(default=1.0, description="Between two looks for audit records to push.")
    policy_refresh: Seconds = Field(default=300.0, description="Between two looks for policy, without a notice.")
    isolation: Seconds = Field(default=600.0, description="For how long a measurement of isolation counts.")
    anchor: Seconds = Field(default=10.0, description="Between two writes of floors and epoch into the cluster.")
    backoff_base: Seconds = Field(default=0.5, description="First bound of the full-jitter back-off.")
    backoff_cap: Seconds = Field(default=30.0, description="Last bound of the full-jitter back-off.")


class AgentSettings(FileSettings):
    """Everything the agent is given at install."""

    ENVIRONMENT = "CELLWARD_AGENT_"
    RETIRED = frozenset({"display_name"})

    realm: str = Field(description="Realm: sha256: and 64 hex digits, from the join line.")
    state_dir: Path = Field(description="Persistent directory of the agent, mode 0700.")
    root_file: Path = Field(description="TUF root.json given at install, out of band.")
    enrolment_address: str = Field(description="host:port of the hub's enrolment listener.")
    hub_ca_file: Path = Field(description="PEM of the CA of hubs, from the join line.")
    join_token_file: Path | None = Field(default=None, description="File with the join token; only needed once.")
    facts: FactSettings
    kubeconfig: Path | None = Field(default=None, description="kubeconfig; absent means the pod's service account.")
    namespace: str = Field(default="cellward-system", description="Namespace of the agent.")
    guards_dir: Path = Field(
        default=Path("/etc/cellward/chart"), description="The chart's files, to compare the admission policies with."
    )
    opa_binary: Path = Field(default=Path("opa"), description="The policy engine.")
    metrics_listen: str = Field(default="", description="host:port on loopback for local /metrics; empty for none.")
    health_listen: str = Field(
        default="", description="host:port in the pod's network for probes of the kubelet; empty for none."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    isolation_probe: Literal["pods", "none"] = Field(
        default="pods", description="How isolation is measured: by pods in the cells, or not at all (``unknown``)."
    )
    prober_image: str = Field(
        default="",
        description="Image of the prober by digest, the agent's own will do; without, nothing is measured.",
    )
    probe_outside: str = Field(
        default="",
        description="host:port outside the cluster that no cell may reach by itself; empty for none.",
    )
    start_gate: Literal["none", "proved"] = Field(
        default="none",
        description="What pods of cells begin with: ``proved`` waits until forbidden edges are closed.",
    )
    spool: SpoolSettings = Field(default_factory=SpoolSettings)
    intervals: IntervalSettings = Field(default_factory=IntervalSettings)

    @model_validator(mode="after")
    def _gated(self) -> Self:
        if self.start_gate == "proved" and not (self.prober_image and self.health_listen and self.kubeconfig is None):
            raise ValueError("start_gate: proved needs prober_image and health_listen, and an agent in the cluster")
        return self

    @field_validator("realm")
    @classmethod
    def _realm(cls, value: str) -> str:
        if not _REALM.match(value):
            raise ValueError("must be sha256: and 64 lower-case hex digits")
        return value

    @field_validator("enrolment_address")
    @classmethod
    def _address(cls, value: str) -> str:
        return check_address(value)

    @field_validator("health_listen")
    @classmethod
    def _anywhere(cls, value: str) -> str:
        return check_address(value, least=0) if value else value

    @field_validator("probe_outside")
    @classmethod
    def _outside(cls, value: str) -> str:
        return check_address(value) if value else value

    @field_validator("metrics_listen")
    @classmethod
    def _loopback(cls, value: str) -> str:
        if not value:
            return value
        host = check_address(value).rpartition(":")[0]
        if host not in {"127.0.0.1", "[::1]", "localhost"}:
            raise ValueError("must be on loopback: the agent opens no port outside its cluster (V1)")
        return value


def load_settings(path: Path) -> AgentSettings:
    """Read and check the settings file.

    Raises:
        CellwardError: ``settings/invalid``, naming each field that is wrong, or each variable that would stand for
            trust; it does not matter whether that variable agrees with the file.
    """
    second = sorted(name for name in set(AgentSettings.model_fields) - TUNABLES if in_environment(name, AgentSettings))
    if second:
        names = ", ".join(variable_of(name, AgentSettings) for name in second)
        raise INVALID_SETTINGS(
            f"the environment sets {names}",
            hint=f"Unset it; {', '.join(second)} can only be said in {path}.",
        )
    return load_settings_file(path, AgentSettings, INVALID_SETTINGS)
