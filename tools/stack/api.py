"""A few lines of HTTP to the API server: readiness, the chart's files, tokens, and asking as somebody.

Blocking, one request at a time, milliseconds each. It exists because a probe or a table of rights must see exact
status codes and messages; the product's own client is in ``agent/kube``.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from cellward.errors import Unavailable
from tools.stack.connections import Peer
from tools.stack.errors import API_REFUSED, API_UNREACHABLE, UNKNOWN_KIND

JSONObject = dict[str, Any]
_TIMEOUT_SECONDS = 10.0
_APPLY = "application/apply-patch+yaml"

#: (apiVersion, kind) -> (plural, namespaced), for what the chart and the tests write
_KINDS: Mapping[tuple[str, str], tuple[str, bool]] = {
    ("v1", "Namespace"): ("namespaces", False),
    ("v1", "Node"): ("nodes", False),
    ("v1", "ServiceAccount"): ("serviceaccounts", True),
    ("v1", "ConfigMap"): ("configmaps", True),
    ("v1", "Secret"): ("secrets", True),
    ("v1", "ResourceQuota"): ("resourcequotas", True),
    ("v1", "Service"): ("services", True),
    ("v1", "Pod"): ("pods", True),
    ("apps/v1", "Deployment"): ("deployments", True),
    ("batch/v1", "Job"): ("jobs", True),
    ("coordination.k8s.io/v1", "Lease"): ("leases", True),
    ("v1", "PersistentVolume"): ("persistentvolumes", False),
    ("storage.k8s.io/v1", "StorageClass"): ("storageclasses", False),
    ("networking.k8s.io/v1", "NetworkPolicy"): ("networkpolicies", True),
    ("rbac.authorization.k8s.io/v1", "Role"): ("roles", True),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): ("rolebindings", True),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"): ("clusterroles", False),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"): ("clusterrolebindings", False),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"): ("validatingadmissionpolicies", False),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding"): (
        "validatingadmissionpolicybindings",
        False,
    ),
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"): ("validatingwebhookconfigurations", False),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """Status code and body of one request; ``message`` is the API server's own sentence for a refusal."""

    status: int
    body: JSONObject
    text: str

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.status < 300

    @property
    def message(self) -> str:
        """The message of the Status object, or the raw text."""
        return str(self.body.get("message", self.text))


@dataclass(frozen=True, slots=True)
class ApiClient:
    """Asks one API server as one caller.

    Attributes:
        host: where it listens; always loopback here.
        port: its port.
        ca: file with the CA to trust.
        pair: client certificate and key, or None.
        token: bearer token, or empty.
    """

    host: str
    port: int
    ca: Path
    pair: tuple[Path, Path] | None = None
    token: str = field(default="", repr=False)

    def with_token(self, token: str) -> ApiClient:
        """Return a client of the same server that shows only this token."""
        return ApiClient(self.host, self.port, self.ca, None, token)

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        user: str = "",
        groups: Sequence[str] = (),
        timeout: float = _TIMEOUT_SECONDS,
    ) -> Answer:
        """Send one request, impersonating ``user`` and ``groups`` when given.

        Raises:
            CellwardError: stack/api-unreachable when there is no answer.
        """
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if user:
            headers["Impersonate-User"] = user
        data = None if body is None else json.dumps(body).encode()
        peer = Peer(self.host, self.port, self.ca, self.pair)
        connection = peer.take(timeout)
        try:
            connection.putrequest(method, path)
            for name, value in headers.items():
                connection.putheader(name, value)
            for group in groups:
                connection.putheader("Impersonate-Group", group)
            if data is not None:
                connection.putheader("Content-Length", str(len(data)))
            connection.endheaders(data)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError | http.client.HTTPException):
                said = f"{method} {path} on port {self.port}: {type(error).__name__}: {error}"
                raise API_UNREACHABLE(said) from error
            raise
        peer.give(connection)
        return Answer(response.status, _object(text), text)

    def ready(self) -> bool:
        """Whether ``/readyz`` says ok."""
        try:
            return self.request("GET", "/readyz", timeout=2.0).status == 200
        except Unavailable:
            return False

    def apply(self, manifest: JSONObject, *, manager: str, dry_run: bool = False, user: str = "") -> Answer:
        """Server-side apply with force, as the chart's own field manager would."""
        query = {"fieldManager": manager, "force": "true", **({"dryRun": "All"} if dry_run else {})}
        path = f"{path_of(manifest)}?{urlencode(query)}"
        return self.request("PATCH", path, manifest, content_type=_APPLY, user=user)

    def create(self, manifest: JSONObject, *, dry_run: bool = False, user: str = "") -> Answer:
        """POST one object."""
        path = collection_of(manifest) + ("?dryRun=All" if dry_run else "")
        return self.request("POST", path, manifest, user=user)

    def delete(self, manifest: JSONObject, *, dry_run: bool = False, user: str = "") -> Answer:
        """DELETE one object."""
        return self.request("DELETE", path_of(manifest) + ("?dryRun=All" if dry_run else ""), user=user)

    def get(self, manifest: JSONObject) -> Answer:
        """GET the object that has this one's kind, namespace and name."""
        return self.request("GET", path_of(manifest))

    def must(self, answer: Answer, what: str) -> JSONObject:
        """Return the body of a successful answer, or raise stack/api-refused."""
        if not answer.ok:
            raise API_REFUSED(f"{what}: HTTP {answer.status}: {answer.message}")
        return answer.body

    def service_account_token(self, namespace: str, name: str, seconds: int) -> str:
        """Ask for a token of a service account, as the kubelet does for its pods."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        answer = self.request("POST", path, {"spec": {"expirationSeconds": seconds}})
        return str(self.must(answer, f"token of {namespace}/{name}")["status"]["token"])


def collection_of(manifest: JSONObject) -> str:
    """Return the path to POST the object to."""
    version, kind = manifest["apiVersion"], manifest["kind"]
    try:
        plural, namespaced = _KINDS[(version, kind)]
    except KeyError:
        raise UNKNOWN_KIND(f"{version} {kind}") from None
    base = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    namespace = manifest["metadata"].get("namespace", "default")
    return f"{base}/namespaces/{quote(namespace)}/{plural}" if namespaced else f"{base}/{plural}"


def path_of(manifest: JSONObject) -> str:
    """Return the path of the object itself."""
    return f"{collection_of(manifest)}/{quote(manifest['metadata']['name'])}"


def _object(text: str) -> JSONObject:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
