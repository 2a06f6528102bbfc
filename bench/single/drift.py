"""Drift repair: an administrator changes an image; a watch of our own sees when it is back.

Each object is tampered with only a few times: the agent waits longer and longer with what is changed again and again
(``agent.cells.drift``), and that patience is not what is measured here.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.numbers import Row, percentile
from tools.stack.api import ApiClient, path_of

_TIMES = 50
_PATH = "/apis/apps/v1/deployments?watch=1"
_PATIENCE = 10.0
_REST = 0.2
_WRONG = "docker.io/library/redis:0.0-tampered"

#: Namespace and name of a Deployment.
Target = tuple[str, str]


class ImageWatch:
    """Watches all Deployments in a thread; remembers when each showed which image."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api
        self._changed = threading.Condition()
        self._seen: dict[Target, list[tuple[float, str]]] = {}
        threading.Thread(target=self._run, daemon=True, name="image-watch").start()

    def since(self, target: Target, began: float, found: Callable[[str], bool]) -> float:
        """Return when, after ``began``, the newest image of a Deployment was first one that ``found`` takes.

        Raises TimeoutError when it times out waiting for that.
        """
        deadline = time.monotonic() + _PATIENCE
        with self._changed:
            while True:
                for at, image in self._seen.get(target, []):
                    if at >= began and found(image):
                        return at
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(f"{target} was not seen as expected within {_PATIENCE:g} s")

    def _run(self) -> None:
        context = ssl.create_default_context(cafile=str(self._api.ca))
        if self._api.pair is not None:
            context.load_cert_chain(*self._api.pair)
        connection = http.client.HTTPSConnection(self._api.host, self._api.port, context=context)
        connection.request("GET", _PATH)
        response = connection.getresponse()
        while line := response.readline():
            at = time.monotonic()
            item: dict[str, Any] = json.loads(line)["object"]
            with self._changed:
                target = (item["metadata"]["namespace"], item["metadata"]["name"])
                self._seen.setdefault(target, []).append((at, _image(item)))
                self._changed.notify_all()


def measure(api: ApiClient, targets: Sequence[Target]) -> list[Row]:
    """Change the image of one Deployment after the other, and wait until each is repaired."""
    watch = ImageWatch(api)
    original = {target: _image(_get(api, target)) for target in targets}
    times: list[float] = []
    for number in range(_TIMES):
        target = targets[number % len(targets)]
        began = time.monotonic()
        _tamper(api, target)
        patched = time.monotonic()
        tampered = watch.since(target, began, lambda image: image == _WRONG)
        back = watch.since(target, tampered, lambda image, wanted=original[target]: image == wanted)  # type: ignore[misc]
        times.append(max(0.0, back - patched) * 1000)
        # Let the roll-out of the Deployment controller settle, so that each repair begins from rest.
        time.sleep(_REST)
    note = f"{_TIMES} times, {len(targets)} objects"
    return [
        Row("drift_p50", "drift repaired: image of a Deployment, p50", percentile(times, 0.5), "ms"),
        Row("drift_p99", "drift repaired: image of a Deployment, p99", percentile(times, 0.99), "ms", 1000, note=note),
    ]


def _tamper(api: ApiClient, target: Target) -> None:
    patch = {"spec": {"template": {"spec": {"containers": [{"name": target[1], "image": _WRONG}]}}}}
    path = path_of(_ref(target)) + "?fieldManager=somebody"
    answer = api.request("PATCH", path, patch, content_type="application/strategic-merge-patch+json")
    api.must(answer, f"tampering with {target[1]}")


def _get(api: ApiClient, target: Target) -> dict[str, Any]:
    return api.must(api.get(_ref(target)), f"reading {target[1]}")


def _ref(target: Target) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": target[0], "name": target[1]}}


def _image(item: dict[str, Any]) -> str:
    return str(item["spec"]["template"]["spec"]["containers"][0]["image"])
