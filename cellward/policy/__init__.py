"""What both sides agree on about policy: decision types, bundle format, TUF acceptance rules and publishing.

Belongs here: pure types and rules over bytes, and the one python-tuf client run that agent and hub share.
Does not belong here: processes (OPA), stores, sockets, anything that schedules; those live in ``agent/policy`` and
``hub/policy``.
"""
