"""Benchmarks of the real parts, run by ``make bench``: numbers beside the bars of the design, never asserted.

Here belongs what starts the parts, loads them and measures from outside. What the product needs at run time does not,
and neither do checks of behaviour: those are tests.
"""
