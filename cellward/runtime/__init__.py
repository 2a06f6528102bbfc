"""What every process needs to stay up and go down well: clocks, back-off, supervision, conditions, atomic files.

Nothing here knows about clusters, policy or the wire; what both sides agree on about those lives in the other rooms.
"""
