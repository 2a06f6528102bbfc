"""The control plane: a courier of what authors signed, and the place where the fleet can be seen.

Nothing here decides what may run in a cluster. Parts meet only in ``hub.app``.
"""
