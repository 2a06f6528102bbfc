"""Where the API server is and how to prove who we are: a named kubeconfig, or the pod's service account.

A kubeconfig is never taken from the environment or the home directory: an agent started on a person's machine must not
find that person's cluster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.kube.errors import KUBE_NO_CREDENTIALS
from agent.kube.library import load_library

#: Connections to the API server. Every watch holds one, so it must be well above the number of watches: those of the
#: whole cluster, and two for each cell whose pods are looked at.
POOL_SIZE = 64


async def load_configuration(kubeconfig: Path | None) -> Any:
    """Return the library's configuration; raises kube/no-credentials."""
    library = load_library()
    # The constructor, not get_default_copy: a default set elsewhere in the process must not leak in.
    configuration = type.__call__(library.Configuration)
    try:
        if kubeconfig is None:
            library.load_incluster_config(client_configuration=configuration)
        else:
            await library.load_kube_config(
                config_file=str(kubeconfig), client_configuration=configuration, persist_config=False
            )
    except (library.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        where = str(kubeconfig) if kubeconfig is not None else "the pod's service account"
        raise KUBE_NO_CREDENTIALS(f"{where}: {type(error).__name__}: {error}") from error
    if not configuration.verify_ssl or not str(configuration.host).startswith("https://"):
        raise KUBE_NO_CREDENTIALS(f"{configuration.host} would be spoken to without verified TLS")
    configuration.retries = None
    # trust_env would send these requests through the proxy meant for the hub.
    configuration.client_session_kwargs = {"trust_env": False}
    return configuration
