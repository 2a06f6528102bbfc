"""What NetworkPolicies mean, over values: pods, namespaces, policies and a connection in, verdict and reason out.

Nothing here measures: that policies say "denied" is no proof that packets stop. What a cell's policies are is in
``cellward.cells.network``, what packets did in ``agent.isolation``. Only ``cells`` knows of cells and releases.
"""
