"""The data plane's side: verify, decide, isolate, apply, repair, record.

Trusts its own configuration, the TUF root given at install and author keys; from the hub it takes bytes to
verify and wishes to narrow. Parts meet only in ``agent.app``.
"""
