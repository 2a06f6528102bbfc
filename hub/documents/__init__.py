"""Signed documents on the hub: read, judged by the keyring served, bounded, kept, judged again, placed.

Invariants: what an upload is decided on is read in the transaction that keeps it; what it costs does not grow with what
was kept before. Nothing here is an authority: agents verify everything again (ADR 0013). What a cluster is, and what
its agent says, belongs to ``hub.clusters``; which of the documents a cluster gets, to ``hub.placement``.
"""
