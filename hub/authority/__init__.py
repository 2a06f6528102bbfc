"""The hub's certificate authority: its keys at rest, join tokens, and who gets a certificate for which name.

Here belong the four keys the hub holds, issuing for agents and for the hub itself, and the Enrolment service. The
hub's keys never sign a policy, a release or a deployment. Servers and listeners belong to ``hub.sync``; storage to
``hub.store``.
"""
