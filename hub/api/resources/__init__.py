"""Handlers, one module per resource: each translates between a schema and a call to a domain room, and nothing more."""
