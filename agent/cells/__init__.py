"""The life of a cell: from an accepted document to a healthy cell, its fallback, or its end.

What belongs here: which step comes next, what is recorded and saved with it, drift repair at its pace, prune and its
limit, quarantine, tombstones. What does not belong here: whether a document holds (verify), how one object is written
(objects), where items come from (link).
"""
