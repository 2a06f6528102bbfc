"""Turns verified documents into running cells, and keeps them exactly as released.

What belongs here: the pipeline of one cell (verify, render, decide, isolate, dry run, ordered apply, health, record),
prune with its brake, drift repair, tombstones. What does not belong here: where documents come from (link), how rules
are evaluated (policy), how the API server is spoken to (kube).
"""
