"""The Cell and Deployment YAML as pydantic models: shapes and bounds of single fields.

Every unknown field is refused. What policy should refuse (privileged, host access, a missing owner, missing resources)
can be expressed on purpose, so that the refusal names the rule; only what has no meaning is refused here. What needs
more than one field or cell is in ``validate`` and ``resolve``.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from cellward.documents import names
from cellward.telemetry import series

API_VERSION = "cellward.dev/v1alpha1"
COMPONENT_MAX = 40

Text = Annotated[str, StringConstraints(max_length=4096)]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=253)]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
Path = Annotated[str, StringConstraints(pattern=r"^/[^\x00-\x1f:]*$", max_length=512)]
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,12}(\.[0-9]{1,6})?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
PortNumber = Annotated[int, Field(ge=1, le=65535)]
UserId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Seconds = Annotated[int, Field(ge=0, le=86_400)]
Protocol = Literal["TCP", "UDP", "SCTP"]
Visibility = Literal["cell", "project", "organization", "public"]
ComponentType = Literal["service", "worker", "job", "cronjob", "stateful", "manifests"]


def _name(limit: int) -> AfterValidator:
    def check(value: str) -> str:
        if not names.is_name(value, limit):
            raise ValueError(f"not an RFC 1123 label of at most {limit} characters without '--'")
        return value

    return AfterValidator(check)


def _port_name(value: str) -> str:
    if not names.is_name(value, 15) or value.isdigit() or not any(letter.isalpha() for letter in value):
        raise ValueError("not a port name: at most 15 of a-z, 0-9 and '-', with a letter")
    return value


def _series_name(value: str) -> str:
    if not series.is_name(value):
        raise ValueError(f"not a metric's name: letters, digits, '_' and ':', and not {series.OWN_PREFIX}…")
    return value


def _version(value: str) -> str:
    if not names.is_version(value):
        raise ValueError("not a version: letters, digits, '.', '_' and '-', at most 63")
    return value


def _cidr(value: str) -> str:
    network = ipaddress.ip_network(value, strict=True)
    if str(network) != value:
        raise ValueError(f"not in its usual form, which is {network}")
    return value


ProjectName = Annotated[str, _name(names.PROJECT_MAX)]
CellName = Annotated[str, _name(names.CELL_MAX)]
EnvironmentName = Annotated[str, _name(names.ENVIRONMENT_MAX)]
ComponentName = Annotated[str, _name(COMPONENT_MAX)]
EndpointName = Annotated[str, _name(COMPONENT_MAX)]
VolumeName = Annotated[str, _name(20)]
SeriesName = Annotated[str, AfterValidator(_series_name)]
PortName = Annotated[str, AfterValidator(_port_name)]
Version = Annotated[str, AfterValidator(_version)]
Cidr = Annotated[str, AfterValidator(_cidr)]
HostName = Annotated[
    str,
    StringConstraints(
        pattern=r"^(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{1,62}[a-z0-9]$", max_length=253
    ),
]


class Strict(BaseModel):
    """Base: camelCase outside, no unknown fields, no coercion, immutable."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=to_camel, hide_input_in_errors=True
    )


class Port(Strict):
    """A port of a component: ``port`` is where the pod listens, ``service_port`` what its Service shows."""

    port: PortNumber
    service_port: PortNumber | None = None
    protocol: Protocol = "TCP"

    @property
    def exposed(self) -> int:
        """The Service's port."""
        return self.port if self.service_port is None else self.service_port


class SecretReference(Strict):
    """A key of a Secret in the cell's namespace; never the value."""

    name: Annotated[str, _name(63)]
    key: Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]{1,253}$")]


class Config(Strict):
    """Files mounted read-only: absolute path to content."""

    files: Annotated[
        dict[Path, Annotated[str, StringConstraints(max_length=262_144)]], Field(min_length=1, max_length=32)
    ]


class ResourceAmounts(Strict):
    """Amounts of one side, requests or limits."""

    cpu: Quantity | None = None
    memory: Quantity | None = None
    ephemeral_storage: Annotated[Quantity | None, Field(alias="ephemeral-storage")] = None


class Resources(Strict):
    """Requests and limits; either may be missing, which policy may refuse."""

    requests: ResourceAmounts | None = None
    limits: ResourceAmounts | None = None


class HttpProbe(Strict):
    """GET on a path."""

    path: Path = "/"
    port: PortName | PortNumber
    headers: Annotated[dict[ShortText, ShortText], Field(max_length=16)] = {}


class GrpcProbe(Strict):
    """gRPC health check."""

    port: PortNumber


class TcpProbe(Strict):
    """A connection that opens."""

    port: PortName | PortNumber


class Probe(Strict):
    """One probe: exactly one way of asking, and its timing in seconds."""

    http: HttpProbe | None = None
    grpc: GrpcProbe | None = None
    tcp: TcpProbe | None = None
    exec: Annotated[list[Text], Field(min_length=1, max_length=64)] | None = None
    initial_delay_seconds: Seconds | None = None
    period_seconds: Seconds | None = None
    timeout_seconds: Seconds | None = None
    failure_threshold: Annotated[int, Field(ge=1, le=1000)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(way is not None for way in (self.http, self.grpc, self.tcp, self.exec)) != 1:
            raise ValueError("exactly one of http, grpc, tcp and exec is needed")
        return self


class Probes(Strict):
    """Readiness, liveness, startup."""

    readiness: Probe | None = None
    liveness: Probe | None = None
    startup: Probe | None = None


class EmptyDir(Strict):
    """Scratch space that goes with the pod."""

    size_limit: Quantity | None = None
    medium: Literal["Memory"] | None = None


class Persistent(Strict):
    """A claim that outlives the pod; removed only by a tombstone with ``deleteData``."""

    size: Quantity
    storage_class: Annotated[str, _name(63)] | None = None
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany", "ReadWriteOncePod"] = "ReadWriteOnce"


class HostPath(Strict):
    """A path of the node; expressible so that policy refuses it."""

    path: Path


class Volume(Strict):
    """One volume and where it is mounted: exactly one source."""

    mount_path: Path
    read_only: bool = False
    empty_dir: EmptyDir | None = None
    persistent: Persistent | None = None
    host_path: HostPath | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.empty_dir, self.persistent, self.host_path)) != 1:
            raise ValueError("exactly one of emptyDir, persistent and hostPath is needed")
        return self


class Capabilities(Strict):
    """Linux capabilities beside the default of dropping all."""

    add: Annotated[list[ShortText], Field(max_length=64)] = []
    drop: Annotated[list[ShortText], Field(max_length=64)] = ["ALL"]


class SecurityContext(Strict):
    """What differs from the rendered defaults, which are those of the restricted pod security standard."""

    run_as_non_root: bool = True
    run_as_user: UserId | None = None
    run_as_group: UserId | None = None
    fs_group: UserId | None = None
    read_only_root_filesystem: bool = True
    allow_privilege_escalation: bool = False
    privileged: bool = False
    capabilities: Capabilities = Capabilities()
    seccomp_profile: Literal["RuntimeDefault", "Unconfined"] = "RuntimeDefault"


class Scrape(Strict):
    """Where the agent reads the component's metrics, and the names of those that it reads; without names, none.

    The name of a histogram or summary stands for its series.
    """

    port: PortName
    path: Path = "/metrics"
    metrics: Annotated[list[SeriesName], Field(max_length=64)] = []


class Component(Strict):
    """One part of a cell: a workload with its Service, or raw manifests of allow-listed kinds."""

    type: ComponentType = "service"
    image: ShortText | None = None
    command: Annotated[list[Text], Field(max_length=64)] = []
    args: Annotated[list[Text], Field(max_length=256)] = []
    ports: Annotated[dict[PortName, Port], Field(max_length=32)] = {}
    env: Annotated[dict[EnvName, Annotated[str, StringConstraints(max_length=32_768)]], Field(max_length=256)] = {}
    secrets: Annotated[dict[EnvName, SecretReference], Field(max_length=64)] = {}
    config: Config | None = None
    resources: Resources | None = None
    probes: Probes | None = None
    volumes: Annotated[dict[VolumeName, Volume], Field(max_length=16)] = {}
    replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    security_context: SecurityContext = SecurityContext()
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    host_network: bool = False
    host_pid: Annotated[bool, Field(alias="hostPID")] = False
    host_ipc: Annotated[bool, Field(alias="hostIPC")] = False
    scrape: Scrape | None = None
    schedule: ShortText | None = None
    termination_grace_period_seconds: Seconds | None = None
    manifests: Annotated[list[dict[str, Any]], Field(max_length=32)] = []

    @model_validator(mode="after")
    def _fits_type(self) -> Self:
        if self.type == "manifests":
            if not self.manifests or self.model_fields_set - {"type", "manifests"}:
                raise ValueError("a component of type manifests has manifests and nothing else")
            return self
        wrong = [
            (self.image is None, "image is needed"),
            (bool(self.manifests), "manifests belong to a component of type manifests"),
            ((self.schedule is not None) != (self.type == "cronjob"), "schedule is for a cronjob, which needs it"),
            (self.replicas is not None and self.type in ("job", "cronjob"), "replicas is not for jobs"),
            (self.serves and not self.ports, f"a component of type {self.type} needs a port"),
            (self.service_type != "ClusterIP" and not self.serves, "serviceType is for what has a Service"),
        ]
        for bad, why in wrong:
            if bad:
                raise ValueError(why)
        return self

    @property
    def serves(self) -> bool:
        """Whether the component gets a Service."""
        return self.type in ("service", "stateful")


class Endpoint(Strict):
    """What a cell offers: a port of a component, and how far it can be reached."""

    component: ComponentName
    port: PortName
    visibility: Visibility = "cell"


class ExternalPort(Strict):
    """A port outside."""

    port: PortNumber
    protocol: Protocol = "TCP"


class External(Strict):
    """Something outside the fleet: an address range, or a host name, which NetworkPolicy cannot express."""

    cidr: Cidr | None = None
    host: HostName | None = None
    ports: Annotated[list[ExternalPort], Field(min_length=1, max_length=32)]

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.cidr is None) == (self.host is None):
            raise ValueError("exactly one of cidr and host is needed")
        return self


class Resolved(Strict):
    """The peer's side of a connection as it was when the release was signed; never written by hand."""

    project: ProjectName
    cell: CellName
    component: ComponentName
    service: ComponentName
    service_port: PortNumber
    pod_port: PortNumber
    protocol: Protocol


class Connection(Strict):
    """What a cell needs: another cell's endpoint, or something external.

    ``env`` is the variable that receives the address; ``components`` are those that may use the connection, all when
    it is not said; ``project`` is that of the caller when it is not said.
    """

    project: ProjectName | None = None
    cell: CellName | None = None
    endpoint: EndpointName | None = None
    external: External | None = None
    env: EnvName | None = None
    components: Annotated[list[ComponentName], Field(min_length=1, max_length=64)] | None = None
    resolved: Resolved | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.external is not None:
            if self.cell is not None or self.endpoint is not None or self.project is not None or self.resolved:
                raise ValueError("external stands alone")
            self._external_env(self.external)
        elif self.cell is None or self.endpoint is None:
            raise ValueError("cell and endpoint, or external, are needed")
        return self

    def _external_env(self, external: External) -> None:
        single = external.cidr is None or ipaddress.ip_network(external.cidr).num_addresses == 1
        if self.env is not None and (not single or len(external.ports) != 1):
            raise ValueError("env needs a host or a single address, with a single port")


class CellSpec(Strict):
    """What is in a cell, what it offers and what it needs."""

    version: Version
    owner: Annotated[str, StringConstraints(max_length=253)] = ""
    components: Annotated[dict[ComponentName, Component], Field(min_length=1, max_length=64)]
    endpoints: Annotated[dict[EndpointName, Endpoint], Field(max_length=64)] = {}
    connections: Annotated[list[Connection], Field(max_length=64)] = []


class CellMetadata(Strict):
    """Which cell it is."""

    name: CellName
    project: ProjectName


class Cell(Strict):
    """A cell as its team writes it."""

    api_version: Literal["cellward.dev/v1alpha1"]
    kind: Literal["Cell"]
    metadata: CellMetadata
    spec: CellSpec

    @property
    def key(self) -> tuple[str, str]:
        """(project, cell)."""
        return self.metadata.project, self.metadata.name
