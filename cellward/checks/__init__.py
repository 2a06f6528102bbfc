"""The diagnostic runner behind ``cellward check``: categories, results with hints, table and JSON.

How a check is run and shown belongs here; what is checked belongs to whoever registers it.
"""
