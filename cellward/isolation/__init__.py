"""What NetworkPolicies mean, over values: pods, namespaces, policies and a connection in, verdict and reason out.

Nothing here knows of cells, releases or clusters, and nothing measures: that a policy says "denied" is no proof that
packets stop. What a cell's policies are is ``cellward.cells.network``; what packets did is ``agent.isolation``.
"""
