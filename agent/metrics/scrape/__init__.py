"""Metrics of the cells' own programs: read from their pods, where and what their signed releases name (V1, V2).

``select`` is pure: of a page of metrics it keeps what is named, within bounds. ``fetch`` reads one page from one pod.
``scraper`` is the task that goes round. Nothing here comes from a hub.
"""
