"""The wire: generated stubs in ``v1``, and the few functions both ends share about them.

Here belong conversions between messages and domain values, version negotiation, and the one mapping from
errors to gRPC status. Servers and clients do not: they live in ``hub.sync``, ``hub.authority`` and ``agent.link``.
"""
