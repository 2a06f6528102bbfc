"""Metrics of the fleet as agents pushed them and of the hub itself, on one Prometheus endpoint.

Names are allow-listed by prefix and series are bounded here. What an agent measures belongs to ``agent.metrics``.
"""
