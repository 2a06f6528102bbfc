"""The store on SQLAlchemy Core: SQLite by default, written so that PostgreSQL needs a driver and no other SQL.

The only place that imports SQLAlchemy. What differs between databases is in ``dialect`` alone; tables are in ``tables``
and, frozen once released, in ``migrations``; one module per Protocol of ``hub.store.interfaces``.
"""

from hub.store.sql.lean import load_engine

# Before anything else here imports it.
load_engine()
