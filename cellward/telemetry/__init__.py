"""Names of metrics and log fields, and the one set-up of structured logging.

Names only, so that both sides and the documentation use the same ones; collecting, serving and shipping metrics
belongs to ``hub/metrics`` and ``agent/metrics``.
"""
