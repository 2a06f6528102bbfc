"""Clusters: who was invited, who joined, who is locked, what each is meant to have and what its agent says of it.

State lives in the store; in memory are only which streams are open to this process, and what saves it reads and
writes. The hub may only narrow here (hold, quarantine, lock, remove), and an item that nothing places any more stays
(V14). What a document is worth belongs to ``hub.documents``; certificates and tokens to ``hub.authority``.
"""
