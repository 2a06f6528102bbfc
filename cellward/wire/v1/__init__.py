"""Generated from ``protos/cellward/wire/v1``; never edited by hand (``make gen``)."""
