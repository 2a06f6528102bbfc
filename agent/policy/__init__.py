"""The agent's half of policy: the accepted set on disk, the OPA child process, and the evaluator behind one interface.

Belongs here: staging and acceptance of TUF content, starting and switching OPA, asking it for decisions.
Does not belong here: what a decision is (``cellward/policy``), who fetches bytes (``agent/link``), what is done with
a decision (``agent/verify``).
"""
