"""A component's workload: pod template with the restricted pod security standard as default, and what runs it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from cellward.cells import labels
from cellward.cells.gated import put_first
from cellward.cells.model import Component, Persistent, Probe, Resources, SecurityContext, Volume
from cellward.cells.validate import RESERVED_VOLUME

CONTAINER = "main"
CONFIG_VOLUME = RESERVED_VOLUME
DEFAULT_REPLICAS = 1
#: Access modes with which a volume is on one node, or in one pod, at a time.
_ONE_AT_A_TIME = frozenset({"ReadWriteOnce", "ReadWriteOncePod"})


def pod_template(
    name: str,
    component: Component,
    own: Mapping[str, str],
    env: Mapping[str, str],
    *,
    job: bool = False,
    gate: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the pod template of a component.

    Args:
        name: of the component.
        component: what it is.
        own: labels of its pods.
        env: addresses of its connections.
        job: whether its pods end.
        gate: container that is to end before anything else begins.
    """
    annotations = {}
    if component.config is not None:
        annotations[labels.CONFIG_DIGEST] = _config_digest(component.config.files)
    spec: dict[str, Any] = {
        "serviceAccountName": name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": _pod_security(component.security_context),
        "containers": [_container(component, env)],
    }
    put_first(spec, gate)
    if job:
        spec["restartPolicy"] = "OnFailure"
    if component.termination_grace_period_seconds is not None:
        spec["terminationGracePeriodSeconds"] = component.termination_grace_period_seconds
    for field, wanted in (
        ("hostNetwork", component.host_network),
        ("hostPID", component.host_pid),
        ("hostIPC", component.host_ipc),
    ):
        if wanted:
            spec[field] = True
    volumes = _volumes(name, component)
    if volumes:
        spec["volumes"] = volumes
    metadata: dict[str, Any] = {"labels": dict(own)}
    if annotations:
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": spec}


def workload_spec(name: str, component: Component, template: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Return apiVersion, kind and spec of what runs a component."""
    selector = {"matchLabels": {labels.COMPONENT: name}}
    replicas = DEFAULT_REPLICAS if component.replicas is None else component.replicas
    match component.type:
        case "job":
            return "batch/v1", "Job", {"template": template}
        case "cronjob":
            job = {"spec": {"template": template}}
            cron = {"schedule": component.schedule, "concurrencyPolicy": "Forbid", "jobTemplate": job}
            return "batch/v1", "CronJob", cron
        case "stateful":
            spec: dict[str, Any] = {
                "replicas": replicas,
                "selector": selector,
                "serviceName": name,
                "template": template,
            }
            claims = [_claim_template(volume, found) for volume, found in _persistent(component)]
            if claims:
                spec["volumeClaimTemplates"] = claims
            return "apps/v1", "StatefulSet", spec
        case _:
            deployment: dict[str, Any] = {"replicas": replicas, "selector": selector, "template": template}
            if any(found.access_mode in _ONE_AT_A_TIME for _, found in _persistent(component)):
                # A pod of the new release could never attach what the old one still holds.
                deployment["strategy"] = {"type": "Recreate"}
            return "apps/v1", "Deployment", deployment


def claims(name: str, component: Component) -> list[tuple[str, dict[str, Any]]]:
    """Return name and spec of the PersistentVolumeClaims beside a workload; a stateful one brings its own."""
    if component.type == "stateful":
        return []
    return [(f"{name}-{volume}", _claim_spec(found)) for volume, found in _persistent(component)]


def config_data(component: Component) -> dict[str, str]:
    """Return the ConfigMap data of a component's files."""
    files = {} if component.config is None else component.config.files
    return {config_key(path): files[path] for path in sorted(files)}


def config_key(path: str) -> str:
    """Return the ConfigMap key of a file: its last part made safe, and a piece of the path's hash."""
    last = path.rsplit("/", 1)[-1]
    safe = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in last)[:100]
    return f"{safe}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def _config_digest(files: Mapping[str, str]) -> str:
    hasher = hashlib.sha256()
    for path in sorted(files):
        hasher.update(f"{len(path)}:{path}{len(files[path])}:{files[path]}".encode())
    return hasher.hexdigest()


def _container(component: Component, addresses: Mapping[str, str]) -> dict[str, Any]:
    container: dict[str, Any] = {"name": CONTAINER, "image": component.image}
    if component.command:
        container["command"] = list(component.command)
    if component.args:
        container["args"] = list(component.args)
    if component.ports:
        container["ports"] = [
            {"name": port, "containerPort": found.port, "protocol": found.protocol}
            for port, found in sorted(component.ports.items())
        ]
    env = _env(component, addresses)
    if env:
        container["env"] = env
    resources = _resources(component.resources)
    if resources:
        container["resources"] = resources
    if component.probes is not None:
        for way in ("startup", "readiness", "liveness"):
            probe = getattr(component.probes, way)
            if probe is not None:
                container[f"{way}Probe"] = _probe(probe)
    mounts = _mounts(component)
    if mounts:
        container["volumeMounts"] = mounts
    container["securityContext"] = _container_security(component.security_context)
    return container


def _env(component: Component, addresses: Mapping[str, str]) -> list[dict[str, Any]]:
    plain: dict[str, dict[str, Any]] = {
        name: {"name": name, "value": value} for name, value in {**component.env, **addresses}.items()
    }
    for name, secret in component.secrets.items():
        plain[name] = {"name": name, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}
    return [plain[name] for name in sorted(plain)]


def _resources(resources: Resources | None) -> dict[str, Any]:
    if resources is None:
        return {}
    dumped: dict[str, Any] = resources.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {side: amounts for side, amounts in dumped.items() if amounts}


def _probe(probe: Probe) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if probe.http is not None:
        result["httpGet"] = {"path": probe.http.path, "port": probe.http.port}
        headers = [{"name": name, "value": value} for name, value in sorted(probe.http.headers.items())]
        if headers:
            result["httpGet"]["httpHeaders"] = headers
    elif probe.grpc is not None:
        result["grpc"] = {"port": probe.grpc.port}
    elif probe.tcp is not None:
        result["tcpSocket"] = {"port": probe.tcp.port}
    else:
        result["exec"] = {"command": list(probe.exec or ())}
    timing = {
        "initialDelaySeconds": probe.initial_delay_seconds,
        "periodSeconds": probe.period_seconds,
        "timeoutSeconds": probe.timeout_seconds,
        "failureThreshold": probe.failure_threshold,
    }
    return result | {field: value for field, value in timing.items() if value is not None}


def _mounts(component: Component) -> list[dict[str, Any]]:
    files = sorted(component.config.files if component.config is not None else ())
    mounts: list[dict[str, Any]] = [
        {"name": CONFIG_VOLUME, "mountPath": path, "subPath": config_key(path), "readOnly": True} for path in files
    ]
    for name, volume in sorted(component.volumes.items()):
        mount: dict[str, Any] = {"name": name, "mountPath": volume.mount_path}
        if volume.read_only:
            mount["readOnly"] = True
        mounts.append(mount)
    return mounts


def _volumes(name: str, component: Component) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = []
    if component.config is not None:
        volumes.append({"name": CONFIG_VOLUME, "configMap": {"name": f"{name}-config"}})
    for volume, found in sorted(component.volumes.items()):
        source = _source(name, volume, found, component)
        if source:
            volumes.append({"name": volume, **source})
    return volumes


def _source(name: str, volume: str, found: Volume, component: Component) -> dict[str, Any]:
    if found.empty_dir is not None:
        return {"emptyDir": found.empty_dir.model_dump(mode="json", by_alias=True, exclude_none=True)}
    if found.host_path is not None:
        return {"hostPath": {"path": found.host_path.path}}
    if component.type == "stateful":
        return {}
    return {"persistentVolumeClaim": {"claimName": f"{name}-{volume}"}}


def _persistent(component: Component) -> list[tuple[str, Persistent]]:
    found = sorted(component.volumes.items())
    return [(name, volume.persistent) for name, volume in found if volume.persistent is not None]


def _claim_spec(persistent: Persistent) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "accessModes": [persistent.access_mode],
        "resources": {"requests": {"storage": persistent.size}},
    }
    if persistent.storage_class is not None:
        spec["storageClassName"] = persistent.storage_class
    return spec


def _claim_template(name: str, persistent: Persistent) -> dict[str, Any]:
    # No labels: the template cannot change, and a label with the version would.
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": _claim_spec(persistent),
    }


def _pod_security(wanted: SecurityContext) -> dict[str, Any]:
    ids = {"runAsUser": wanted.run_as_user, "runAsGroup": wanted.run_as_group, "fsGroup": wanted.fs_group}
    return {
        "runAsNonRoot": wanted.run_as_non_root,
        "seccompProfile": {"type": wanted.seccomp_profile},
        **{field: value for field, value in ids.items() if value is not None},
    }


def _container_security(wanted: SecurityContext) -> dict[str, Any]:
    capabilities: dict[str, Any] = {"drop": list(wanted.capabilities.drop)}
    if wanted.capabilities.add:
        capabilities["add"] = list(wanted.capabilities.add)
    # A privileged container cannot forbid escalation; the API server refuses the pair.
    return {
        "privileged": wanted.privileged,
        "allowPrivilegeEscalation": wanted.allow_privilege_escalation or wanted.privileged,
        "readOnlyRootFilesystem": wanted.read_only_root_filesystem,
        "runAsNonRoot": wanted.run_as_non_root,
        "capabilities": capabilities,
    }
