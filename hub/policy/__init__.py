"""The hub's half of policy: a TUF repository that it serves and whose timestamp alone it signs.

Belongs here: verifying uploads as a client would, storing them, renewing the timestamp.
Does not belong here: any key but the timestamp key, any decision about what a policy means.
"""
