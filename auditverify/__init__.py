"""The offline verifier of audit exports: standard library and cryptography only, no import of Cellward.

It stands alone so that one mistake cannot be in the writer and in the verifier; copy this directory to any machine and
run ``python -m auditverify export.ndjson``. Nothing that talks to a hub belongs here.
"""
