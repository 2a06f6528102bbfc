"""Makes the isolation of a cell real on its cluster, and says what was measured of it.

What belongs here: drivers that write isolation objects, and probers that look whether the cluster enforces them. The
intent (who may talk to whom) is ``cellward.cells.network``; ``agent.cells`` says when it is written.
"""
