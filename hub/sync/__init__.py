"""The listeners agents dial, and what goes over them: desired items down, receipts, state, audit and metrics up.

Identity is the peer certificate and nothing else (V3), checked on every call and, for streams, again and again (V4).
What the messages mean for the fleet is behind the ports in ``interfaces``; nothing here stores anything.
"""
