"""Rights that were granted a moment ago."""

from __future__ import annotations

import time

from tools.stack.api import ApiClient


def await_right(admin: ApiClient, user: str, namespace: str, *, resource: str = "configmaps") -> None:
    """Wait until the authorizer lets a user patch a resource: it reads a new binding a moment after it was written."""
    attributes = {"namespace": namespace, "verb": "patch", "resource": resource}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": attributes},
    }
    deadline = time.monotonic() + 30
    while True:
        answer = admin.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        if admin.must(answer, "ask the authorizer")["status"]["allowed"]:
            return
        assert time.monotonic() < deadline, f"{user} may still not patch {resource} in {namespace or 'any namespace'}"
        time.sleep(0.01)
