"""Measures with packets whether a cluster enforces what it accepted (V9, V10).

What belongs here: which edges are tried (``edges``) and what their outcome means (``judge``), both pure; the pods that
try them (``pods``), who makes and reads them (``runner``), and the agent's own end of an edge (``ends``). Everything is
planned from accepted intents and from what the cluster says of its pods: no address comes from a hub.
"""
