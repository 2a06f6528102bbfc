"""Drift repair: an administrator changes an image; a watch of our own sees when it is back."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from bench.numbers import Row, percentile
from tools.stack.api import ApiClient, collection_of, path_of

_TIMES = 50
_PATIENCE = 10.0
_WRONG = "docker.io/library/redis:0.0-tampered"


class ImageWatch:
    """Watches the Deployments of a namespace in a thread; remembers when each name last showed which image."""

    def __init__(self, api: ApiClient, namespace: str) -> None:
        kind = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": namespace}}
        self._path = f"{collection_of(kind)}?watch=1"
        self._api = api
        self._changed = threading.Condition()
        self._seen: dict[str, list[tuple[float, str]]] = {}
        threading.Thread(target=self._run, daemon=True, name="image-watch").start()

    def since(self, name: str, began: float, found: Callable[[str], bool]) -> float:
        """Return when, after ``began``, the newest image of a Deployment was first one that ``found`` takes.

        Raises TimeoutError when that did not happen in time.
        """
        deadline = time.monotonic() + _PATIENCE
        with self._changed:
            while True:
                for at, image in self._seen.get(name, []):
                    if at >= began and found(image):
                        return at
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(f"{name} was not seen as expected within {_PATIENCE:g} s")

    def _run(self) -> None:
        context = ssl.create_default_context(cafile=str(self._api.ca))
        if self._api.pair is not None:
            context.load_cert_chain(*self._api.pair)
        connection = http.client.HTTPSConnection(self._api.host, self._api.port, context=context)
        connection.request("GET", self._path)
        response = connection.getresponse()
        while line := response.readline():
            at = time.monotonic()
            item: dict[str, Any] = json.loads(line)["object"]
            with self._changed:
                self._seen.setdefault(item["metadata"]["name"], []).append((at, _image(item)))
                self._changed.notify_all()


def measure(api: ApiClient, namespace: str, names: list[str]) -> list[Row]:
    """Change the image of one Deployment after the other, and wait until each is repaired."""
    watch = ImageWatch(api, namespace)
    original = {name: _image(_get(api, namespace, name)) for name in names}
    times: list[float] = []
    for number in range(_TIMES):
        name = names[number % len(names)]
        watch_from = time.monotonic()
        _tamper(api, namespace, name)
        patched = time.monotonic()
        tampered = watch.since(name, watch_from, lambda image: image == _WRONG)
        back = watch.since(name, tampered, lambda image, name=name: image == original[name])  # type: ignore[misc]
        times.append(max(0.0, back - patched) * 1000)
        # Let the roll-out of the Deployment controller settle, so that each repair begins from rest.
        time.sleep(0.1)
    return [
        Row("drift_p50", "drift repaired: image of a Deployment, p50", percentile(times, 0.5), "ms"),
        Row("drift_p99", "drift repaired: image of a Deployment, p99", percentile(times, 0.99), "ms", 1000),
    ]


def _tamper(api: ApiClient, namespace: str, name: str) -> None:
    patch = {"spec": {"template": {"spec": {"containers": [{"name": name, "image": _WRONG}]}}}}
    path = path_of(_ref(namespace, name)) + "?fieldManager=somebody"
    answer = api.request("PATCH", path, patch, content_type="application/strategic-merge-patch+json")
    api.must(answer, f"tampering with {name}")


def _get(api: ApiClient, namespace: str, name: str) -> dict[str, Any]:
    return api.must(api.get(_ref(namespace, name)), f"reading {name}")


def _ref(namespace: str, name: str) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": namespace, "name": name}}


def _image(item: dict[str, Any]) -> str:
    return str(item["spec"]["template"]["spec"]["containers"][0]["image"])
