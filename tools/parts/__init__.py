"""Real parts (OPA, etcd, Kubernetes, kwok) at pinned versions: found on ``PATH`` or built from ``tools/go``.

Standard library only, so that it runs before anything is installed. It starts nothing but ``--version`` and
``go build``; running parts together belongs to ``tools.stack``.
"""
