"""Turns a desired item into documents that hold here, and asks the policy about them.

What belongs here: fetching by digest, signatures, placement against this cluster's own facts, floors, the decision, and
refusals in words. What does not belong here: what becomes of objects (objects), when something is done about a document
(cells), how rules are evaluated (policy).
"""
