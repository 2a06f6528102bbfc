"""The fleet: clusters, documents as they were uploaded, desired items per cluster, and what agents reported.

Nothing here is an authority: it indexes documents it did not verify, chooses among what signatures allow, and may only
narrow (hold, quarantine). State lives in the store; the only thing in memory is which streams are open right now.
"""
