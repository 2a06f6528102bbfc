"""One object at a time: written as released, seen, compared, and taken back.

What belongs here: apply and delete with their owners, drift of one object, health, watches, the chart's fence, the
order among kinds. What does not belong here: when a cell does what (cells), documents (verify), how the API server is
spoken to (kube).
"""
