"""What both sides agree on.

Only what the hub and the agent must agree on, or both need identically, lives here; it is pure where it
can be and imports neither side. Anything only one side needs belongs to that side, however general it looks.
"""
