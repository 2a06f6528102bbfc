"""The local state of a command line: what its keys signed, what it knows of numbers, policy and keys.

Here belongs what must outlive a command: the model, its pure rules, and the one place that locks, reads and writes it.
Nothing here talks to a hub, and nothing here signs.
"""
