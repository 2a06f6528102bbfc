"""``cellward isolation``: what may talk to what, and why.

What a person reads here follows from documents that this machine verified; where only the hub says something (that a
cluster runs it, that nothing newer is in force), it is said so beside the answer.
"""
