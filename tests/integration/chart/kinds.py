"""Kinds of network plugins on an API server that runs none: definitions of our own, without a schema."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from tools.stack.api import ApiClient

_DEADLINE_SECONDS = 40.0
_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@contextlib.contextmanager
def installed_kind(
    admin: ApiClient, group: str, version: str, kind: str, plural: str, scope: str = "Namespaced"
) -> Iterator[None]:
    """Define a kind for as long as the block runs."""
    anything = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        # Groups below *.k8s.io are the project's own: the API server asks who approved that.
        "metadata": {
            "name": f"{plural}.{group}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, experimental-only"},
        },
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"plural": plural, "kind": kind},
            "versions": [{"name": version, "served": True, "storage": True, "schema": anything}],
        },
    }
    deadline = time.monotonic() + _DEADLINE_SECONDS
    # The same kind of a test before may still be on its way out.
    while (made := admin.request("POST", _DEFINITIONS, crd)).status == 409:
        assert time.monotonic() < deadline, made.text
        time.sleep(0.05)
    admin.must(made, f"define {kind}")
    try:
        yield
    finally:
        admin.must(admin.request("DELETE", f"{_DEFINITIONS}/{plural}.{group}"), f"forget {kind}")
