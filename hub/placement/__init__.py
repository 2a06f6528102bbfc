"""Which cluster is given what: a choice among documents in force, by what clusters say and what their invites name.

Pure: values in, values out. No store, no clock, no task and no other room of the hub belongs here, so whatever is
decided can be tried on values alone. Reading what is current and writing what changed is ``hub.documents.placing``.
When a release goes out in waves, ``hub.rollout`` will stand between the two, as pure as this.
"""
