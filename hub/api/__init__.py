"""The admin API: routes, schemas, authentication, problems and the OpenAPI document made from the very same table.

Everything a person or a machine may do to the hub passes here, with a role and an audit record. What it means to do it
belongs to the domain rooms (``hub.clusters``, ``hub.documents``, ``hub.policy``, ``hub.audit``), which ``interfaces``
names.
``schemas`` is the only module that the CLI may import.
"""
