"""Signed documents: canonical JSON, DSSE envelopes, the kinds and their strict parsing, keyring, verification, floors.

Everything here is pure: bytes and values in, values out, time as an argument. Belongs here: what a document is, who
may sign it, and which of two documents is newer. Does not belong here: what a cell contains (``cellward.cells``), TUF
(``cellward.policy``), where documents or floors are stored, and whether policy allows one.
"""
