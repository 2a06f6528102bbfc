"""A real Kubernetes control plane on loopback for demo, tests and benchmarks.

Here is how processes are started, watched and stopped, and how the agent's chart gets installed. What is then done
with the cluster belongs to whoever asked for it.
"""
