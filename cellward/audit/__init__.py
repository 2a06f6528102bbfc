"""The audit record, the chain of one writer, the Merkle tree over all of them, and signed statements about both.

Pure: bytes in, bytes or a decision out. What belongs elsewhere: durability (``agent/spool``, ``hub/store``), taking
records in and proving them (``hub/audit``), and the offline verifier (``auditverify``), which shares no code with this.
"""
