"""Cells: their YAML, validation, resolving of connections, rendering to Kubernetes objects, and network intent.

Everything here is pure. Belongs here: what a cell means, and which objects it becomes. Does not belong here: signing
(``cellward.documents``), what is allowed (``cellward.policy``), and anything that talks to a cluster: applying,
health, probing (``agent``).
"""
