"""Who is who: SPIFFE names, keys, certificate requests, issuing, and the check of a peer's certificate.

Everything here is pure over bytes, keys and an explicit time. Where keys are stored and which request is
granted belongs to ``hub.authority``; servers, channels and anything that knows gRPC belong to ``hub.sync``
and ``agent.link``. Document signatures belong to ``cellward.documents``.
"""
