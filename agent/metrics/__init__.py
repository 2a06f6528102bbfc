"""The agent's own metrics: one registry, snapshots for the link, and an optional page on loopback.

Names are in ``cellward/telemetry``; the fleet's endpoint is ``hub/metrics``.
"""
