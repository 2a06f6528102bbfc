"""The part of the ``kubernetes`` package that is used: sessions, TLS and credentials of its asynchronous client.

The first file of the package imports all of it, with the synchronous client, websockets and OAuth. That is 210 modules,
of which 21 are used here, and costs every agent 5 MB for as long as it lives.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from cellward.runtime.packages import pass_first_files


class Library(NamedTuple):
    """What is used of it, by the names it has there."""

    ApiClient: Any
    Configuration: Any
    ConfigException: type[Exception]
    load_incluster_config: Any
    load_kube_config: Any


def load_library() -> Library:
    """Import what is used; only the first time takes long, about a tenth of a second."""
    pass_first_files("kubernetes", "kubernetes.aio")
    from kubernetes.aio.client.api_client import ApiClient  # noqa: PLC0415 - see the module's text
    from kubernetes.aio.client.configuration import Configuration  # noqa: PLC0415
    from kubernetes.aio.config.config_exception import ConfigException  # noqa: PLC0415
    from kubernetes.aio.config.incluster_config import load_incluster_config  # noqa: PLC0415
    from kubernetes.aio.config.kube_config import load_kube_config  # noqa: PLC0415

    return Library(ApiClient, Configuration, ConfigException, load_incluster_config, load_kube_config)
