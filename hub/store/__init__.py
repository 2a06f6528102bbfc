"""The hub's durable state: Protocols and plain rows (``interfaces``), error codes, the change bus, and ``sql``.

Nothing here decides: rooms decide and store. SQLAlchemy is imported in ``sql`` only, and the same contract suite
(``tests/contract/test_store_*.py``) runs on every implementation.
"""
