"""One real hub process and many simulated agents: the agent's own link, spool and policy code, no Kubernetes.

Worker processes hold the agents (``worker``); the parent (``crew``, ``scenario``) gives the signal, acts on the hub as
a person would, and reads off when each agent had it.
"""
