"""Stamps of accepted namespaces: which key holds on this cluster, and how one replaces another (design §7, V10).

What belongs here: the durable key and the steps of changing it, the copy of it in the agent's namespace, and which
namespaces only say that they are cells. What a stamp is, and what selectors ask for, is ``cellward.cells.stamps``; the
objects of a cell are rewritten by ``agent.cells``.
"""
