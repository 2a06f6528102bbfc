"""The only room that talks to the Kubernetes API server, and the only importer of its client, which it loads lazily.

What belongs here: requests, watches, errors of the API server in our own tree, the table of kinds Cellward manages.
Manifests are plain dictionaries from end to end. What does not belong here: what is applied, when, and why.
"""
