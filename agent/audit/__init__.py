"""The writing half of the audit trail: the recorder, the statement key, checkpoints and signed receipts.

What of the hub's log is believed is here too. Record and chain formats are in ``cellward/audit``; durability is
``agent/spool``'s; sending is ``agent/link``'s.
"""
