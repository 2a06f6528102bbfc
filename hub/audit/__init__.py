"""The hub's audit log: takes records of agents and of the hub itself, makes them durable, proves that they are in.

Formats, hashes and proofs are in ``cellward/audit``; rows and transactions in ``hub/store``; reading by people in
``hub/api``. Nothing here can change or remove a record.
"""
