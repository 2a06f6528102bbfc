"""What the admin API and its clients agree on: request and response bodies.

Pydantic models only. No transport, no store, no keys: the hub serves these shapes and the command line reads them.
"""
