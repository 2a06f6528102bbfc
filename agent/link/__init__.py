"""The one connection of the agent to the hub: join, renewal, the Sync session, content, audit and metrics streams.

Only here does the agent speak gRPC. What arrives is handed on as values that others verify; nothing in this room
decides what may run, and nothing here may ever end the agent: without a hub it waits and says so in a condition.
"""
