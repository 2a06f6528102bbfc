"""Durable state of one agent in one SQLite file on its persistent directory, and the comparison with its anchor.

Here: floors, time floor, desired and accepted items, documents by digest, inventories, unsent receipts, the audit
spool. Not here: what any of it means; rooms that decide take what they need through the Protocols of ``interfaces``.
"""
